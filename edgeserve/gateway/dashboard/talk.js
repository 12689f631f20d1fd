// What was said, as it is shown: questions, and answers that grow. The newest answer is #answer,
// and its tokens are elements, so that one of them can be marked. While it grows it stays in view,
// unless its reader has scrolled away from it.

import { html, say } from "./dom.js";

const NEAR_END_PX = 40;
const COPIED_MS = 1500;

export class Talk {
  constructor(frame) {
    this.frame = frame;
    this.clear();
  }

  clear() {
    this.frame.replaceChildren();
    this.answer = null;
    this.pieces = [];
    this.said = "";
  }

  get isEmpty() {
    return this.frame.childElementCount === 0;
  }

  ask(text) {
    this.question = html("div", { class: "said asked" }, text);
    this.frame.append(this.question);
  }

  // `before` is a text that the answer goes on with.
  begin(before) {
    this.frame.querySelector("#answer")?.removeAttribute("id");
    this.pieces = [];
    this.said = "";
    this.isAlone = before === "";
    this.answer = html("div", { id: "answer", class: "running" });
    if (before !== "") this.answer.append(html("span", { class: "asked" }, before));
    this.bubble = html("div", { class: "said answered" }, this.answer);
    this.frame.append(this.bubble);
    this.frame.scrollTop = this.frame.scrollHeight;
  }

  add(text) {
    const { scrollHeight, scrollTop, clientHeight } = this.frame;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    const isFirst = this.said.trim() === "" && this.isAlone;
    const shown = isFirst ? text.trimStart() : text; // many models begin with a blank
    const piece = html("span", {}, shown);
    this.pieces.push(piece);
    this.said += text;
    this.answer.append(piece);
    if (isAtEnd) this.frame.scrollTop = this.frame.scrollHeight;
  }

  end() {
    if (this.answer === null) return;
    this.answer.classList.remove("running");
    if (this.said !== "") this.bubble.append(copyButton(this.answer));
  }

  // The question that nothing was said to.
  takeBack() {
    this.bubble.remove();
    this.question.remove();
    this.answer = null;
  }

  mark(i) {
    this.answer?.querySelector(".chosen")?.classList.remove("chosen");
    this.pieces[i]?.classList.add("chosen");
  }
}

function copyButton(answer) {
  const button = html("button", { type: "button", class: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    say(button, (await copied(answer)) ? "Copied" : "Selected: press Ctrl and C");
    setTimeout(() => say(button, "Copy"), COPIED_MS);
  });
  return button;
}

// A page that did not come over TLS from another box has no clipboard: then the text is selected.
async function copied(answer) {
  try {
    await navigator.clipboard.writeText(answer.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(answer);
    return false;
  }
}
