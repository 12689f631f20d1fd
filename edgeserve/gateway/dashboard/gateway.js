// Talks to the gateway, with the user's key where one is wanted. Whatever goes wrong comes out as a
// `Refused` with a sentence: the server's own, where it gave one.
//
// Paths are relative, so that the page also works behind a proxy that puts it under a prefix.

const KEY = "edgeserve.key";
const POLL_TIMEOUT_MS = 5000;

export class Refused extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status; // 0: nobody answered
  }
}

// Forgotten with the tab: whoever sits here next has no use of it.
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

export async function cluster() {
  const response = await ask("v1/cluster", { signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
  try {
    return await response.json();
  } catch {
    throw new Refused("the gateway's answer broke off");
  }
}

export async function models() {
  return (await (await ask("v1/models", {})).json()).data;
}

export async function openapi() {
  return (await ask("openapi.json", {})).json();
}

// Of an answer that is over, also of one that was stopped.
export async function receiptOf(requestId) {
  const response = await ask(`receipts/${encodeURIComponent(requestId)}`, {});
  return (await response.json()).answers[0];
}

// Both call `onEvent` with {requestId} when the answer begins, then with {text, ended} for each
// token and {timing, notes} beside the last one or behind it, until the stream ends. Aborting
// `signal` raises AbortError.

export async function complete({ prompt, tokens, temperature }, signal, onEvent) {
  const parameters = { max_new_tokens: tokens, temperature };
  const body = { inputs: prompt, parameters };
  await stream("generate_stream", body, signal, onEvent, ({ token, details, ...event }) => ({
    text: token.text,
    ended: details?.finish_reason,
    timing: event.timing,
    notes: notes(event),
  }));
}

export async function chat({ messages, tokens, temperature }, signal, onEvent) {
  const limits = { temperature, max_completion_tokens: tokens };
  const body = { messages, ...limits, stream: true, timing: true };
  const path = "v1/chat/completions";
  await stream(path, body, signal, onEvent, ({ choices: [choice], ...event }) => ({
    text: choice && (choice.delta.content ?? ""),
    ended: choice?.finish_reason ?? undefined,
    timing: event.timing,
    notes: notes(event),
  }));
}

const notes = ({ weights, simulation }) =>
  [weights === "random" ? "random weights" : "", simulation ?? ""].filter(Boolean);

async function stream(path, body, signal, onEvent, shown) {
  const response = await ask(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  onEvent({ requestId: response.headers.get("x-request-id") });
  for await (const event of events(response.body.getReader())) {
    if (event.error !== undefined) {
      throw new Refused(sentenceOf(event), 503);
    }
    onEvent(shown(event));
  }
}

async function ask(path, options) {
  const headers = { ...options.headers };
  if (hasKey()) {
    headers.authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  }
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused("the gateway does not answer");
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

async function refusal(response) {
  let sentence = `the gateway answered ${response.status}, and no reason`;
  try {
    sentence = sentenceOf(await response.json()) ?? sentence;
  } catch {
    // A proxy's page, perhaps. The status has to do.
  }
  const retryAfter = response.headers.get("retry-after");
  const hint = retryAfter === null ? "" : ` (Retry-After: ${retryAfter} s)`;
  return new Refused(sentence + hint, response.status);
}

const sentenceOf = ({ error }) => (typeof error === "string" ? error : error?.message);

// Server-sent events of one line each, and comments, as the gateway writes them.
async function* events(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(broken);
    if (done) return;
    const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data:") && block !== "data: [DONE]") {
        yield JSON.parse(block.slice("data:".length));
      }
    }
  }
}

function broken(error) {
  throw error.name === "AbortError" ? error : new Refused("the stream broke off");
}
