"""Texts for the tests of encoders."""

import random

_WORDS = [
    "the", "a", "of", "sea", "bread", "winter", "dog", "chess", "rust", "moon", "river", "music", "engine", "token",
    "granite", "whisper", "seven", "über", "naïve", "東京", "погода", "émigré", "🙂", "🚀", "∑", "don't", "3.14",
    "e-mail", "GPU", "[SEP]", "state-of-the-art", "antidisestablishmentarianism",
]  # fmt: skip


def sentences(count: int, seed: int = 7) -> list[str]:
    """Mostly short, a few longer than any model here reads; every script, and what tokenizers stumble over."""
    chance = random.Random(seed)
    few = max(1, count // 300)
    lengths = [60] * 2 * few + [150] * few + [700] * few
    lengths += [chance.choice((1, 3, 6, 9, 14, 20)) for _ in range(count - len(lengths))]
    chance.shuffle(lengths)
    return [" ".join(chance.choices(_WORDS, k=length)) for length in lengths]


RELATED: list[tuple[str, str]] = [
    ("A man is playing a guitar.", "A person plays the guitar."),
    ("A woman is slicing an onion.", "Someone is cutting an onion."),
    ("The cat sleeps on the sofa.", "A cat is asleep on the couch."),
    ("Children are playing football in the park.", "Kids play soccer in a park."),
    ("The stock market fell sharply today.", "Shares dropped steeply on the exchange today."),
    ("He is riding a horse on the beach.", "A man rides a horse along the shore."),
    ("The plane is taking off.", "An airplane is departing from the runway."),
    ("How do I reset my password?", "What are the steps to change a forgotten password?"),
    ("A chef is preparing a soup.", "The cook is making soup."),
    ("It is raining heavily in London.", "London is having a downpour."),
    ("The scientist discovered a new planet.", "A new planet was found by an astronomer."),
    ("Two dogs run through the snow.", "A pair of dogs is running in snow."),
    ("The company hired a new director.", "A new director was appointed by the firm."),
    ("She bought a red car.", "She purchased a car that is red."),
    ("The train to Paris is late.", "There is a delay of the train going to Paris."),
    ("A baby is laughing.", "An infant laughs."),
    ("The concert was cancelled because of illness.", "They called off the concert since the singer was ill."),
    ("Bees make honey from nectar.", "Honey is produced by bees out of nectar."),
    ("The bridge was built in 1890.", "Construction of the bridge was finished in 1890."),
    ("He wrote a novel about the war.", "His novel tells of the war."),
    ("Drinking water is good for your health.", "It is healthy to drink water."),
]
"""Pairs that say the same. The first of one has nothing to do with the second of another."""

QUERIES: list[tuple[str, str, tuple[str, ...]]] = [
    (
        "sort a list in python",
        "Return a new list containing all items from the iterable in ascending order.",
        ("Open a network socket and wait for a connection.", "A game about space ships.", "Fonts for Arabic."),
    ),
    (
        "web browser",
        "fast and lightweight browser for the World Wide Web",
        ("library for matrix algebra", "driver for laser printers", "tools for chess players"),
    ),
    (
        "compress files",
        "high-quality compressor for files and archives",
        ("calendar with reminders", "simulator of electronic circuits", "dictionary of German words"),
    ),
    (
        "play music",
        "music player for MP3 and Ogg audio files",
        ("compiler for the Pascal language", "monitor of network traffic", "editor of tax forms"),
    ),
    (
        "text editor",
        "small and friendly editor for text files in the terminal",
        ("firewall for home networks", "chemical structure database", "game of cards"),
    ),
    (
        "database server",
        "object-relational SQL database, version 15 server",
        ("screen saver with fish", "spelling dictionary for Polish", "viewer of astronomical images"),
    ),
    (
        "draw diagrams",
        "editor of diagrams and flow charts",
        ("daemon that mounts disks", "client for internet relay chat", "codec for speech"),
    ),
]
"""(query, the document that answers it, others)."""
