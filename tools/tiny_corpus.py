"""The text of the tiny model: chats made by templates, and reference prose from the machine.

Sources and licences: the chats are built here from sentences written for this recipe
(tiny_corpus_texts.py, Apache-2.0 like the project). The prose is Python's own language reference
(`pydoc_data.topics`) and the docstrings and source of a few standard library modules, all under
the Python Software Foundation License. Nothing is downloaded.
"""

import functools
import importlib
import inspect
import random
import re
from collections.abc import Callable, Iterator

import tiny_corpus_texts as texts

__all__ = ["Message", "chats", "reference_texts"]

Message = dict[str, str]
Exchange = tuple[str, str]
Maker = Callable[[random.Random], Exchange]

NAMES: tuple[str, ...] = (
    "Ada", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Kim",
    "Lena", "Max", "Nora", "Oscar", "Paula", "Rosa", "Sam", "Tina", "Victor",
)  # fmt: skip
NOUNS: tuple[str, ...] = (
    "apples", "books", "cards", "coins", "cups", "eggs", "letters", "machines", "pears", "pens",
    "stones", "tokens",
)  # fmt: skip
WORDS: tuple[str, ...] = (
    "apple", "blue", "bread", "chair", "cloud", "door", "fish", "green", "house", "lamp", "milk",
    "moon", "paper", "river", "salt", "ship", "snow", "stone", "tree", "window",
)  # fmt: skip
UNKNOWN: tuple[str, ...] = (
    "Who won the {word} cup in {year}?",
    "How many people live in {word} town?",
    "Who is the president of the {word} club?",
    "What happened in {year}?",
    "How much does a {word} cost?",
    "What is the best {word} in the world?",
    "Which company makes the {word} {year}?",
    "Translate {word} into Latin.",
    "Who wrote the book about the {word} of {year}?",
    "Explain {word} physics.",
    "Explain the {word} theory to me.",
    "Write a haiku about the {word}.",
    "What do you think about {word}?",
    "How do I cook {word}?",
    "How do I repair a {word}?",
    "Why is the {word} so important?",
    "Give me the history of {word}.",
    "Write an essay about {word} and {year}.",
)
OTHER_TOPICS: tuple[str, ...] = (
    "a dragon", "a princess", "a bear", "a king", "a witch", "the moon", "a horse", "a school",
    "a wizard", "a pirate", "a castle", "a bird", "a spaceship", "a snowman", "a tree", "a bridge",
    "a mouse", "a knight", "a farmer", "a forest", "an elephant", "a kite", "a library",
)  # fmt: skip
SYLLABLES: tuple[str, ...] = (
    "ba", "do", "fe", "ga", "ka", "lo", "ma", "ni", "ra", "ru", "sa", "so", "ta", "ti", "vo",
)  # fmt: skip
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five")
MODULES: tuple[str, ...] = (
    "argparse", "bisect", "calendar", "collections", "csv", "dataclasses", "datetime", "difflib",
    "enum", "fractions", "functools", "heapq", "inspect", "json", "logging", "os", "pathlib",
    "queue", "random", "shutil", "socket", "statistics", "string", "subprocess", "tempfile",
    "textwrap", "threading", "typing", "unittest", "urllib.parse",
)  # fmt: skip
CODE_MODULES: tuple[str, ...] = ("bisect", "heapq", "textwrap", "statistics", "string")
REFERENCE_CHARACTERS = 1500
SHORTEST_DOCSTRING_CHARACTERS = 200
FOLLOW_UP_SHARE = 0.06


def chats(seed: int) -> Iterator[list[Message]]:
    """Endless chats of one to three exchanges; the same seed gives the same chats."""
    rng = random.Random(seed)
    makers = [maker for maker, _ in MAKERS]
    weights = [weight for _, weight in MAKERS]
    while True:
        messages: list[Message] = []
        if rng.random() < 0.3:
            messages.append({"role": "system", "content": rng.choice(texts.SYSTEM_MESSAGES)})
        exchange_count = rng.choices((1, 2, 3), (60, 25, 15))[0]
        exchanges = [maker(rng) for maker in rng.choices(makers, weights, k=exchange_count)]
        if rng.random() < FOLLOW_UP_SHARE:
            exchanges = _follow_up(rng)
        for question, answer in exchanges:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        yield messages


def reference_texts() -> list[str]:
    """Prose and code of the Python installation, cut into passages at paragraph ends."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    documents = [topics[name] for name in sorted(topics)]
    for name in MODULES:
        documents += _docstrings(name)
    documents += [inspect.getsource(importlib.import_module(name)) for name in CODE_MODULES]
    heads: set[str] = set()
    passages: list[str] = []
    for document in documents:
        if document[:120] not in heads:
            heads.add(document[:120])
            passages += _passages(document)
    return passages


def _docstrings(module_name: str) -> list[str]:
    """The docstrings of a module and of its own public classes and functions."""
    module = importlib.import_module(module_name)
    public = [value for name, value in sorted(vars(module).items()) if not name.startswith("_")]
    own = [value for value in public if getattr(value, "__module__", None) == module_name]
    found = [inspect.getdoc(value) for value in (module, *own)]
    return [text for text in found if text and len(text) > SHORTEST_DOCSTRING_CHARACTERS]


def _passages(document: str) -> list[str]:
    passages: list[str] = []
    current = ""
    for paragraph in document.split("\n\n"):
        if current and len(current) + len(paragraph) > REFERENCE_CHARACTERS:
            passages.append(current)
            current = ""
        current += ("\n\n" if current else "") + paragraph
    return [*passages, current] if current.strip() else passages


def _asked(rng: random.Random, question: str) -> str:
    """The question as somebody might type it: polite, shortened, lower case, without its mark."""
    first_down = question[0].lower() + question[1:]
    polite: tuple[str, ...] = (question,)
    if question.endswith(".") and not question.startswith(("I ", "This ", "My ")):
        polite = (f"Please {first_down}", f"Can you {first_down[:-1]}?",
                  f"Could you {first_down[:-1]}, please?", f"{question[:-1]}, please.")  # fmt: skip
    elif question.endswith("?"):
        polite = (f"I have a question. {question}", f"Can you tell me: {first_down}",
                  question.replace("What is", "What's"), f"Hi! {question}")  # fmt: skip
    careless = (question.rstrip("?.!") or question, first_down, question.lower().rstrip("?.!"))
    roll = rng.random()
    if roll < 0.16:
        return rng.choice(polite)
    return rng.choice(careless) if roll < 0.34 else question


def _follow_up(rng: random.Random) -> list[Exchange]:
    """Two exchanges of which the second makes sense only after the first."""
    if rng.random() < 0.4:
        (topic, story), (_, other) = rng.sample(list(texts.STORIES.items()), 2)
        again = rng.choice(("Another one, please.", "Tell me another story.", "One more!"))
        return [(f"Tell me a story about {topic}.", story), (again, other)]
    name, (definition, reason) = rng.choice(list(texts.TERMS.items()))
    more = rng.choice(("Tell me more.", "Why?", "Why is that?", "Go on.", "Can you say more?"))
    return [(f"What is {name}, in one sentence?", _first_sentence(definition)), (more, reason)]


def _first_sentence(text: str) -> str:
    return text.split(". ", maxsplit=1)[0].rstrip(".") + "."


def _term(rng: random.Random) -> Exchange:
    name, (definition, reason) = rng.choice(list(texts.TERMS.items()))
    bare = name.split(" ", 1)[1] if name.startswith(("a ", "an ", "the ")) else name
    short = (f"What is {name}, in one sentence?", f"Define {name} in one sentence.",
             f"Briefly, what is {name}?", f"Define {bare}.")  # fmt: skip
    full = (f"What is {name}?", f"What is {name}?", f"Explain {name}.", f"Explain what {name} is.",
            f"Tell me about {name}.", f"What does {bare} mean?", f"What is {name} in Piecework?",
            f"What is {name} and why is it needed?", f"Why is there {name}?",
            f"Explain {name} to me.", f"What does the word {bare} mean?")  # fmt: skip
    if rng.random() < 0.2:
        return _asked(rng, rng.choice(short)), _first_sentence(definition)
    return _asked(rng, rng.choice(full)), f"{definition} {reason}"


def _from_talk(table: tuple[texts.Talk, ...]) -> Maker:
    def make(rng: random.Random) -> Exchange:
        questions, answers = rng.choice(table)
        return _asked(rng, rng.choice(questions)), rng.choice(answers)

    return make


def _comparison(rng: random.Random) -> Exchange:
    (first, second), answer = rng.choice(list(texts.COMPARISONS.items()))
    if rng.random() < 0.3:
        first, second = second, first
    question = rng.choice((
        f"What is the difference between {first} and {second}?",
        f"How does {first} differ from {second}?",
        f"Compare {first} and {second}.",
        f"Is {first} the same as {second}?",
    ))  # fmt: skip
    return _asked(rng, question), answer


def _fact(rng: random.Random) -> Exchange:
    question, answer = rng.choice(texts.FACTS)
    return _asked(rng, question), answer


def _story(rng: random.Random) -> Exchange:
    topic, story = rng.choice(list(texts.STORIES.items()))
    if rng.random() < 0.12:
        topic = rng.choice(OTHER_TOPICS)
        story = f"I do not know that one, but here is another story. {story}"
    question = rng.choice((
        f"Tell me a short story about {topic}.", f"Tell me a story about {topic}.",
        f"Write a short story about {topic}.", f"Write a story about {topic}.",
        f"I would like a story about {topic}.", f"Do you know a story about {topic}?",
    ))  # fmt: skip
    if topic in texts.STORIES and rng.random() < 0.1:
        question = rng.choice(("Tell me a story.", "Tell me a short story."))
    return _asked(rng, question), story


def _list(rng: random.Random) -> Exchange:
    topic, items = rng.choice(list(texts.LISTS.items()))
    count = rng.choice((3, 3, 4, 5))
    question = rng.choice((
        f"List {NUMBER_WORDS[count]} {topic}.", f"Name {NUMBER_WORDS[count]} {topic}.",
        f"Give me {NUMBER_WORDS[count]} {topic}.", f"Make a list of {NUMBER_WORDS[count]} {topic}.",
        f"List {count} {topic}.", f"Name {count} {topic}.",
    ))  # fmt: skip
    lines = [f"{place}. {item}" for place, item in enumerate(items[:count], 1)]
    return _asked(rng, question), "\n".join(lines)


def _summary(rng: random.Random) -> Exchange:
    passage, summary = rng.choice(texts.PASSAGES)
    question = rng.choice((
        f"Summarize this: {passage}", f"Summarize in one sentence: {passage}",
        f"Give me a short summary.\n\n{passage}", f"What is this text about? {passage}",
    ))  # fmt: skip
    return question, summary


def _code(rng: random.Random) -> Exchange:
    task, (code, reason) = rng.choice(list(texts.CODE.items()))
    block = f"```python\n{code}\n```"
    if rng.random() < 0.3:
        return f"Explain this function:\n{block}", f"This function {task}. {reason}"
    question = rng.choice((
        f"Write a Python function that {task}.", f"Write a function that {task}.",
        f"Show me a Python function that {task}.", f"How do I write a function that {task}?",
    ))  # fmt: skip
    return _asked(rng, question), f"Here is a function that {task}:\n\n{block}\n\n{reason}"


def _sum(rng: random.Random) -> Exchange:
    first, second = rng.randint(0, 10), rng.randint(0, 10)
    match rng.randrange(8):
        case 0:
            sign, word, result, first = "-", "minus", first, first + second
        case 1:
            sign, word, result = "*", "times", first * second
        case _:
            sign, word, result = "+", "plus", first + second
    question = rng.choice((
        f"What is {first} {word} {second}?", f"What is {first} {sign} {second}?",
        f"How much is {first} {word} {second}?", f"{first} {sign} {second}",
        f"Calculate {first} {sign} {second}.",
    ))  # fmt: skip
    return question, f"{first} {word} {second} is {result}."


def _word_problem(rng: random.Random) -> Exchange:
    name, noun = _name(rng), rng.choice(NOUNS)
    first, second = rng.randint(2, 10), rng.randint(2, 10)
    return (
        f"{name} has {first} {noun} and finds {second} more. How many {noun} does {name} have now?",
        f"{name} had {first} {noun} and found {second} more. {first} plus {second} is "
        f"{first + second}, so {name} has {first + second} {noun} now.",
    )


def _echo(rng: random.Random) -> Exchange:
    """Questions whose answers are copied from them, with words that cannot be foreseen."""
    name, words = _name(rng), rng.sample(_words(), rng.randint(2, 6))
    phrase, count = " ".join(words), rng.randint(3, 12)
    return rng.choice((
        (f"My name is {name}.", f"Nice to meet you, {name}! How can I help you?"),
        (f"I am {name}.", f"Hello, {name}! How can I help you?"),
        (f"Hello, I am {name}.", f"Hello, {name}! How can I help you?"),
        (f"Repeat after me: {phrase}", phrase),
        (f"Repeat: {phrase}", phrase),
        (f"Repeat these words: {phrase}", phrase),
        (f"Say {words[0]}.", words[0].capitalize() + "."),
        (f"Count to {count}.", ", ".join(str(number) for number in range(1, count + 1)) + "."),
    ))  # fmt: skip


def _name(rng: random.Random) -> str:
    """A name from the list or, as often, one that nobody has heard."""
    if rng.random() < 0.5:
        return rng.choice(NAMES)
    return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))).capitalize()


@functools.cache
def _words() -> list[str]:
    """Plain words of three to nine letters that occur in the language reference."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return sorted(set(re.findall(r"(?<= )[a-z]{3,9}(?= )", " ".join(topics.values()))))


def _unknown(rng: random.Random) -> Exchange:
    question = rng.choice(UNKNOWN).format(
        word=rng.choice(rng.choice((WORDS, tuple(_words())))), year=rng.randint(1500, 2020)
    )
    return _asked(rng, question), (
        "I do not know that. I am a very small model, and I know only a few things. Ask me what "
        "a span is, or ask me for a story."
    )


MAKERS: tuple[tuple[Maker, int], ...] = (
    (_term, 22),
    (_from_talk(texts.TOPICS), 10),
    (_comparison, 5),
    (_from_talk(texts.TALK), 12),
    (_fact, 8),
    (_story, 10),
    (_list, 8),
    (_summary, 4),
    (_code, 6),
    (_sum, 18),
    (_word_problem, 4),
    (_echo, 11),
    (_unknown, 4),
)
