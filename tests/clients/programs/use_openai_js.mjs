// Run by node in the folder of openai's package: what its users do first.

import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello!" }];

const answer = await client.chat.completions.create({ model: "dummy", messages, max_tokens: 8 });
const stream = await client.chat.completions.create({ model: "dummy", messages, max_tokens: 8, stream: true });
let text = "";
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
const events = await client.responses.create({ model: "dummy", input: "Hello!", max_output_tokens: 8, stream: true });
let last;
for await (const event of events) last = event.type;

console.log(JSON.stringify({
  chat: answer.usage.completion_tokens > 0,
  stream: text !== "",
  "responses, streamed": last.startsWith("response."),
}));
