"""Chat templates with tools, in the two manners of writing a call; short ones, and no vendor's."""

TAGGED_TEMPLATE = """{%- if tools %}
    {{- '<|im_start|>system\\nFunctions:\\n' }}
    {%- for tool in tools %}{{- tool | tojson ~ '\\n' }}{%- endfor %}
    {{- 'To call one: <tool_call>{"name": N, "arguments": A}</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- endif %}
    {%- for call in message.tool_calls %}
        {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""With tags, and calls in the plural."""

BARE_TEMPLATE = """{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{{- bos_token }}
{%- macro head(role) %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
{%- endmacro %}
{%- if tools is not none %}
    {{- head('system') + 'Say {"name": N, "parameters": P} to call one of:\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) + '\\n\\n' }}{%- endfor %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls[1:] %}{{- raise_exception('one at a time') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- head('assistant') + '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}' }}
    {%- elif message.role == 'tool' %}
        {{- head('ipython') + {'output': message.content} | tojson }}
    {%- else %}
        {{- head(message.role) + message.content | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- head('assistant') }}{%- endif %}"""
"""Without tags, and with one call at a time."""
