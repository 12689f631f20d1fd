"""Text Generation Inference's routes, `/generate` and `/generate_stream`, with our receipts.

Not covered: its chat, which is OpenAI's (`openai/`).
"""
