// Run by node in the folder of the AI SDK's packages: what its users do first.

import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, streamText, tool } from "ai";

const provider = createOpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none" });
const settings = { prompt: "Hello!", maxOutputTokens: 60, maxRetries: 0 };

const byResponses = await generateText({ model: provider("dummy"), ...settings });
const byChat = await generateText({ model: provider.chat("dummy"), ...settings });
let streamed = "";
for await (const delta of streamText({ model: provider("dummy"), ...settings }).textStream) streamed += delta;
const double = tool({
  description: "Twice a number.",
  inputSchema: jsonSchema({
    type: "object",
    properties: { number: { type: "integer", minimum: 0, maximum: 99 } },
    required: ["number"],
    additionalProperties: false,
  }),
});
const called = await generateText({
  model: provider("dummy"), ...settings, prompt: "Double 4.", tools: { double }, toolChoice: "required",
});

console.log(JSON.stringify({
  "generateText (responses)": byResponses.usage.outputTokens > 0,
  "generateText (chat)": byChat.usage.outputTokens > 0,
  streamText: streamed !== "",
  "tool call": called.toolCalls[0].toolName,
}));
