"""Writes the conversations that teach the demo model to call tools: questions, calls and answers.

A model of three million numbers cannot know the tools of others; what it can learn is to copy. So
nearly every name and value here is made up, and no two conversations share them: what is left to
learn is where in the prompt the name of the fitting tool stands, which words of the question are
its arguments, and that an answer quotes the result. Short chat without tools, and with tools that
are not needed, teaches when not to call. It refuses to know about tokenizers, models and templates.

    python scripts/demo_chat.py --chats 3 --seed 0
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demo_text import (  # type: ignore[import-not-found]  # beside this script
    question_and_answer,
    request_and_story,
)
from demo_words import (  # type: ignore[import-not-found]
    ANY_KEYS,
    CODAS,
    CODE_KEYS,
    COMMON,
    KINDS,
    LANGUAGES,
    ME,
    NAME_KEYS,
    NOUNS,
    NUMBERS_KEYS,
    ONSETS,
    OPENERS,
    PEOPLE,
    PLACE_KEYS,
    PLACES,
    POLITE,
    SMALL_TALK,
    SYSTEMS,
    TEXT_KEYS,
    THING_KEYS,
    UNITS,
    UNKNOWN,
    VOWELS,
    WHAT,
    WHO,
    ZONE_KEYS,
    Kind,
)

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Chat:
    """What a client of a chat sends, and the assistant's answers in between."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """A tool, a question that needs it, and what the assistant makes of the question."""

    tool: Mapping[str, Any]
    question: str
    calls: Sequence[Mapping[str, Any]]
    """The arguments of each call; more than one if the question asks for two things."""
    noun: str


@dataclass
class Writer:
    """One conversation's luck. `is_easy`: short, for the beginning of the training."""

    rng: random.Random
    is_easy: bool = False
    ids: int = field(default=0)

    # -- words

    def word(self) -> str:
        """One that does not exist, as a rule."""
        pick = self.rng.choice
        syllables = self.rng.choices((1, 2, 3), (25, 55, 20))[0]
        return "".join(pick(ONSETS) + pick(VOWELS) + pick(CODAS) for _ in range(syllables))

    def proper(self, known: Sequence[str], share: float = 0.35) -> str:
        """A name, sometimes one of two words."""
        if self.rng.random() < share:
            return self.rng.choice(known)
        words = [self.word().capitalize() for _ in range(1 + (self.rng.random() < 0.2))]
        return " ".join(words)

    def phrase(self) -> str:
        """What one may look for: a few words."""
        count = self.rng.choices((1, 2, 3, 4), (30, 40, 20, 10))[0]
        return " ".join(self.some_word() for _ in range(count))

    def some_word(self) -> str:
        made_of = self.rng.random()
        if made_of < 0.45:
            return str(self.rng.choice(COMMON))
        if made_of < 0.55:
            return self.number(is_whole=True)
        return self.word() if made_of < 0.8 else self.proper(PLACES, 0.3)

    def code(self) -> str:
        """As tickets, orders and shares have them."""
        letters = "".join(
            self.rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(self.rng.randint(1, 4))
        )
        digits = self.number(is_whole=True)
        return self.rng.choice((letters, digits, letters + digits, f"{letters}-{digits}"))

    def zone(self) -> str:
        if self.rng.random() < 0.2:
            return self.rng.choice(("UTC", "CET", "GMT", "EST", "PST"))
        area = self.rng.choice(("Europe", "America", "Asia", "Africa", self.word().capitalize()))
        return f"{area}/{self.proper(PLACES).replace(' ', '_')}"

    def date(self) -> str:
        """Of this century."""
        year, month = self.rng.randrange(100), self.rng.randint(1, 12)
        return f"20{year:02}-{month:02}-{self.rng.randint(1, 28):02}"

    def number(self, *, is_whole: bool = False) -> str:
        if is_whole or self.rng.random() < 0.85:
            return str(self.rng.randrange(10 ** self.rng.randint(1, 4)))
        return f"{self.rng.randrange(1000)}.{self.rng.randint(1, 99)}"

    def value(self, key: str, *, is_number: bool = False) -> tuple[str, str]:
        """The type and a value of the parameter with that name, as the question has it."""
        kinds: Sequence[tuple[Sequence[str], Callable[[], str]]] = (
            (PLACE_KEYS, lambda: self.proper(PLACES)),
            (NAME_KEYS, lambda: self.proper(PEOPLE)),
            (CODE_KEYS, self.code),
            (ZONE_KEYS, self.zone),
            (THING_KEYS, self.some_word),
            (TEXT_KEYS, self.phrase),
        )
        write = next((write for keys, write in kinds if key in keys), None)
        if write is None and is_number:
            is_whole = self.rng.random() < 0.7
            return ("integer" if is_whole else "number"), self.number(is_whole=is_whole)
        return "string", (write or self.anything)()

    def anything(self) -> str:
        """For a name that does not say what it is for."""
        return self.rng.choice((lambda: self.proper(PLACES), self.phrase, self.word))()

    # -- tools

    def tasks(self, count: int) -> list[Task]:
        """With tools that cannot be mistaken for one another."""
        tasks: list[Task] = []
        for _ in range(count):
            taken = [name for task in tasks for name in (task.tool["name"], task.noun)]
            tasks.append(self.task(taken))
        return tasks

    def task(self, taken: Sequence[str] = ()) -> Task:
        """A question and its tool, whose name and noun are not among those taken."""
        while True:
            kind = self.rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
            task = self._task_of(kind)
            if task.tool["name"] not in taken and task.noun not in taken:
                return task

    def _task_of(self, kind: Kind) -> Task:
        """Tool and question are written with the same words, and in the order of the tables."""
        pick = self.rng.choice
        noun = self.word() if self.rng.random() < 0.35 else pick(kind.nouns)
        verb = self.word() if self.rng.random() < 0.2 else pick(kind.verbs)
        keys = self._keys(kind)
        typed = [self._typed(kind, i, key) for i, key in enumerate(keys)]
        named = {f"k{i}": key.replace("_", " ") for i, key in enumerate(keys)}
        words = {"noun": noun, "verb": verb, **named}
        name = self._styled(pick(kind.names).format(**words))
        says = pick(kind.says).format(**words)
        tool = self._tool(name, says[0].upper() + says[1:], keys, [type_ for type_, _ in typed])
        question = pick(kind.questions)
        texts, calls = self._called(kind, keys, typed)
        if self.rng.random() < 0.08:
            question = self._outright(name, keys)
        asked = self._with_option(tool, calls, question.format(*texts, **words))
        return Task(tool=tool, question=self._sentence(asked, typed), calls=calls, noun=noun)

    def _called(
        self, kind: Kind, keys: Sequence[str], typed: Sequence[tuple[str, str]]
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """What the question says, and the arguments of each call: "in Rome and Oslo" are two."""
        texts = [text for _, text in typed]
        calls = [{key: _typed_value(*each) for key, each in zip(keys, typed, strict=True)}]
        if len(keys) == 1 and kind.nouns is NOUNS and self.rng.random() < 0.12:
            type_, other = self._typed(kind, 0, keys[0])
            if type_ == typed[0][0] and other != texts[0]:
                calls.append({keys[0]: _typed_value(type_, other)})
                texts = [f"{texts[0]} and {other}"]
        return texts, calls

    def _keys(self, kind: Kind) -> list[str]:
        """A fifth of the names is made up."""
        keys = [
            self.word() if self.rng.random() < 0.2 else self.rng.choice(each) for each in kind.keys
        ]
        return keys if len(set(keys)) == len(keys) else self._keys(kind)

    def _typed(self, kind: Kind, i: int, key: str) -> tuple[str, str]:
        """The type and a value of the tool's parameter `i`, which is called `key`."""
        names = kind.keys[i]
        if any(names is each for each in NUMBERS_KEYS) or names[0] == "amount":
            return self.value(key, is_number=True)
        special = self._special(names[0])
        if special is not None:
            return "string", special
        if names is ANY_KEYS and self.rng.random() < 0.1 and key in CODE_KEYS:
            return "integer", self.number(is_whole=True)
        return self.value(key)

    def _special(self, first: str) -> str | None:
        """Where it counts what the parameter is for, and not what it is called."""
        if first in ("from_unit", "to_unit") and self.rng.random() < 0.7:
            return str(self.rng.choice(self.rng.choice(UNITS).split()))
        if first == "language" and self.rng.random() < 0.6:
            return str(self.rng.choice(LANGUAGES))
        if first == "text":
            return self.phrase()
        return self.proper(PLACES) if first in ("origin", "destination") else None

    def _outright(self, name: str, keys: Sequence[str]) -> str:
        """The tool is named."""
        slots = [f"{{{i}}}" for i in range(len(keys))]
        named = " and ".join(f"{key} {slot}" for key, slot in zip(keys, slots, strict=True))
        with_ = f" with {self.rng.choice((named, ' and '.join(slots)))}" if keys else ""
        return f"{self.rng.choice(('call', 'use', 'run', 'use the tool'))} {name}{with_}"

    def _styled(self, name: str) -> str:
        words = re.split(r"[ _]", name)
        style = self.rng.choices(("snake", "camel", "kebab", "plain"), (80, 12, 4, 4))[0]
        if style == "camel":
            return words[0] + "".join(word.capitalize() for word in words[1:])
        return {"snake": "_", "kebab": "-", "plain": ""}[style].join(words)

    def _tool(
        self, name: str, says: str, keys: Sequence[str], types: Sequence[str]
    ) -> dict[str, Any]:
        described = self.rng.random() < 0.25
        properties = {
            key: {"type": type_, **({"description": self._of_key(key)} if described else {})}
            for key, type_ in zip(keys, types, strict=True)
        }
        required = [] if self.rng.random() < 0.07 else [*keys]
        if not self.is_easy and self.rng.random() < 0.15:
            says = f"{says} {self._of_key(self.word())} {self.phrase().capitalize()}."
        description = {} if self.rng.random() < 0.12 else {"description": says}
        parameters = {"type": "object", "properties": properties, "required": required}
        return {"name": name, **description, "parameters": parameters}

    def _of_key(self, key: str) -> str:
        noun = key.replace("_", " ")
        says = (
            f"The {noun}.",
            f"The {noun} to use",
            f"Which {noun}",
            f"the {noun}, such as {self.proper(PLACES)}",
        )
        return self.rng.choice(says)

    def _with_option(
        self, tool: dict[str, Any], calls: Sequence[dict[str, Any]], asked: str
    ) -> str:
        """Adds a parameter that may be left out, and a question that may leave it out."""
        if self.is_easy or self.rng.random() > 0.15:
            return asked
        key = self.rng.choice(
            ("unit", "units", "format", "mode", "limit", "max_results", "lang", self.word())
        )
        properties = tool["parameters"]["properties"]
        if key in properties:
            return asked
        is_count = key in ("limit", "max_results")
        values = [self.number(is_whole=True)] if is_count else self._options()
        kind = {"type": "integer"} if is_count else {"type": "string", "enum": values}
        or_null = {"anyOf": [kind, {"type": "null"}], "default": None}
        properties[key] = or_null if self.rng.random() < 0.3 else kind
        if self.rng.random() < 0.6:
            return asked
        value = self.rng.choice(values)
        for arguments in calls:
            arguments[key] = int(value) if is_count else value
        said = (
            f"{key.replace('_', ' ')} {value}"
            if is_count
            else self.rng.choice((f"in {value}", f"with {key} {value}"))
        )
        body = asked.rstrip(".?!")
        return f"{body} {said}{asked[len(body) :]}"

    def _options(self) -> list[str]:
        if self.rng.random() < 0.5:
            return [*self.rng.choice(UNITS).split()]
        return list(dict.fromkeys(self.word() for _ in range(self.rng.randint(2, 3))))

    def _sentence(self, asked: str, typed: Sequence[tuple[str, str]]) -> str:
        """Sometimes with a polite word, and without the care that people do not take."""
        polite = self.rng.choice(POLITE)
        if polite and (found := re.fullmatch(r"(.*[^.?!])([.?!])", asked, re.DOTALL)):
            asked = f"{found[1]} {polite}{found[2]}"
        opener = self.rng.choice(OPENERS)
        starts_with_value = any(asked.startswith(text) for _, text in typed)
        if self.rng.random() < 0.8 and not starts_with_value:
            asked = asked[0].upper() + asked[1:]
        return f"{opener}{asked}"

    # -- results

    def result(self, noun: str) -> str:
        """What a tool may say."""
        pick, number = self.rng.choice, self.number
        writers: Sequence[Callable[[], str]] = (
            number,
            number,
            lambda: f"{number()} {self.word()}",
            lambda: str.capitalize(f"{pick(COMMON)}, {number()} degrees"),
            lambda: f"The {noun} is {self.phrase()}.",
            lambda: f"It is {pick(COMMON)} in {self.proper(PLACES)}.",
            lambda: f"{self.proper(PLACES)}: {number()}",
            lambda: f"{self.rng.randrange(24):02}:{self.rng.randrange(60):02}",
            self.date,
            lambda: json.dumps(
                {self.word(): int(number(is_whole=True)), pick(COMMON): self.some_word()}
            ),
            lambda: json.dumps({noun: self.phrase()}),
            lambda: json.dumps([self.some_word() for _ in range(self.rng.randint(1, 3))]),
            self.phrase,
            lambda: f"{self.phrase().capitalize()}.",
            lambda: f"{self.phrase().capitalize()}. {self.phrase().capitalize()}.",
            self.code,
            lambda: pick(("true", "false", "ok", "done", "None", "sent")),
            lambda: f"Error: {self.phrase()}",
        )
        return pick(writers)()

    # -- conversations

    def tool_chat(self) -> Chat:
        """Questions that need a tool; mostly one of them."""
        turns = 1 if self.is_easy else self.rng.choices((1, 2), (82, 18))[0]
        count = 1 if self.is_easy else self.rng.choices((1, 2, 3, 4), (45, 32, 16, 7))[0]
        tasks = self.tasks(max(count, turns))
        messages = self._begun(tasks)
        for task in tasks[:turns]:
            messages += self._solved(task)
        tools = [task.tool for task in tasks]
        self.rng.shuffle(tools)
        return Chat(messages=messages, tools=[_function(tool) for tool in tools])

    def _begun(self, tasks: Sequence[Task]) -> list[Message]:
        """Sometimes with instructions, or with a greeting."""
        messages: list[Message] = []
        if self.rng.random() < (0.15 if self.is_easy else 0.35):
            messages.append({"role": "system", "content": self.system(tasks)})
        if not self.is_easy and self.rng.random() < 0.06:
            messages += self.small_talk()
        return messages

    def system(self, tasks: Sequence[Task] = ()) -> str:
        words = {"noun": self.rng.choice(NOUNS), "word": self.word(), "Name": self.proper(PEOPLE)}
        tool = tasks[0].tool["name"] if tasks else self.word()
        return str(self.rng.choice(SYSTEMS).format(tool=tool, **words))

    def _solved(self, task: Task) -> list[Message]:
        calls = [self._call(task.tool["name"], arguments) for arguments in task.calls]
        results = [self.result(task.noun) for _ in calls]
        tools = [
            {"role": "tool", "tool_call_id": call["id"], "content": result}
            for call, result in zip(calls, results, strict=True)
        ]
        return [
            {"role": "user", "content": task.question},
            {"role": "assistant", "content": "", "tool_calls": calls},
            *tools,
            {"role": "assistant", "content": quoted(results)},
        ]

    def _call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.ids += 1
        function = {"name": name, "arguments": arguments}
        return {"id": f"call_{self.ids}", "type": "function", "function": function}

    def small_talk(self) -> list[Message]:
        asked, answer = self.rng.choice(SMALL_TALK).split(" => ")
        question = self.rng.choice(asked.split(" | "))
        if self.rng.random() < 0.5:
            question = question[0].upper() + question[1:]
        return _pair(question, answer.format(me=ME))

    def plain_chat(self) -> Chat:
        """No tool is needed, though there may be some."""
        tasks = self.tasks(self.rng.choice((0, 0, 1, 1, 2)))
        talk = self.rng.random()
        said = self.small_talk() if talk < 0.75 else _pair(*self._told(is_story=talk < 0.85))
        messages = [*self._begun(tasks), *said]
        return Chat(messages=messages, tools=[_function(task.tool) for task in tasks])

    def _told(self, *, is_story: bool) -> tuple[str, str]:
        """A question of those that the stories come with, which no tool answers better."""
        asked, told = (request_and_story if is_story else question_and_answer)(self.rng)
        return (asked, told) if is_story or asked.startswith("Why") else self._told(is_story=False)

    def unknown_chat(self) -> Chat:
        """A question to which only a tool could know the answer, and there is none."""
        asked = f"{self.rng.choice([*WHO, *WHAT])} {self.phrase()}?"
        if self.rng.random() < 0.5:
            asked = self.task().question
        return Chat(messages=[*self._begun([]), *_pair(asked[0].upper() + asked[1:], UNKNOWN)])

    def repeat_chat(self) -> Chat:
        """Nothing but copying, which all the rest is made of."""
        text = " ".join(self.some_word() for _ in range(self.rng.randint(2, 9)))
        asked = self.rng.choice(
            ("Repeat: {}", "Say: {}", "Repeat after me: {}", 'Say "{}"', "Please repeat: {}")
        )
        return Chat(messages=_pair(asked.format(text), text))


def chats(count: int, seed: int, *, is_easy: bool = False) -> Iterator[Chat]:
    """The same `count` conversations for the same seed."""
    rng = random.Random(f"chats {seed} {is_easy}")
    shares = (60, 5, 5, 30) if is_easy else (74, 12, 7, 7)
    for _ in range(count):
        writer = Writer(rng, is_easy)
        kinds = (writer.tool_chat, writer.plain_chat, writer.unknown_chat, writer.repeat_chat)
        yield rng.choices(kinds, shares)[0]()


def quoted(results: Sequence[str]) -> str:
    """An answer made of what the tools said."""
    said = " and ".join(result.rstrip(".") if len(results) > 1 else result for result in results)
    stop = "." if said[-1].isalnum() else ""
    if said[0].isdigit() or said[0] == "-":
        return f"The answer is {said}{stop}"
    return f"Here is what I found: {said}{stop}"


def _typed_value(type_: str, text: str) -> str | int | float:
    return text if type_ == "string" else int(text) if text.isdigit() else float(text)


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": tool}


def _pair(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def main() -> None:
    """Prints conversations as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--chats", type=int, default=3, help="how many to print")
    parser.add_argument("--seed", type=int, default=0, help="the same seed prints the same ones")
    parser.add_argument("--easy", action="store_true", help="those of the beginning")
    flags = parser.parse_args()
    for chat in chats(flags.chats, flags.seed, is_easy=flags.easy):
        print(json.dumps({"tools": chat.tools, "messages": chat.messages}, indent=1))


if __name__ == "__main__":
    main()
