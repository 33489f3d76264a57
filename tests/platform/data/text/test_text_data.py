"""Text files: windows, exact byte counts, tokenizers, the cache, and what bad ones get."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mambarium.errors import InputError
from mambarium.platform.data import TextFiles
from mambarium.platform.data.text.spans import TextSpan, pieces
from mambarium.platform.data.text.token_stream import byte_stream
from mambarium.platform.data.text.token_windows import EvaluationWindows, TrainingWindows
from mambarium.platform.data.text.tokenization import JsonTokenization
from mambarium.tasks.batches import IGNORED_TARGET

TEXT = "".join(f"Zeile {i}: schöne Grüße, 你好 🙂!  \n\n" for i in range(300))


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


@pytest.fixture
def byte_level(tmp_path: Path) -> str:
    """A byte-level BPE, which splits characters over several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["Zeile Grüße"], trainer)
    tokenizer.save(str(tmp_path / "byte_level.json"))
    return str(tmp_path / "byte_level.json")


@pytest.fixture
def word_level(tmp_path: Path) -> str:
    """A word-level tokenizer that drops white space, lower-cases, and knows few words."""
    tokenizer = Tokenizer(models.WordLevel({"zeile": 0, ":": 1, "[UNK]": 2, "!": 3}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "word_level.json"))
    return str(tmp_path / "word_level.json")


def opened(path: Path | str, **arguments: object) -> TextFiles:
    return TextFiles(str(path), **{"length": 32, "batch_size": 4, "passes": 1, **arguments})


def test_training_windows_tile_the_text() -> None:
    stream = byte_stream(bytes(i % 251 for i in range(1000)))
    windows = TrainingWindows(stream, 100, seed=3, name="text")
    assert len(windows) == 9
    starts = set()
    for pass_index in range(20):
        rows = [windows[(pass_index, i)] for i in range(len(windows))]
        tiled = np.concatenate([row.tokens for row in rows])
        start = next(s for s in range(101) if np.array_equal(stream.tokens[s : s + 900], tiled))
        starts.add(start)
        followed = np.concatenate([row.targets for row in rows])
        assert np.array_equal(followed, stream.tokens[start + 1 : start + 901])
        assert all(row.num_bytes == 100 for row in rows)
    assert len(starts) > 10 and max(starts) < 100


@pytest.mark.parametrize("size", [101, 102, 199, 200, 201, 300])
def test_training_windows_of_short_texts(size: int) -> None:
    windows = TrainingWindows(byte_stream(bytes(size)), 100, seed=0, name="text")
    for pass_index in range(50):
        assert all(len(windows[(pass_index, i)].targets) == 100 for i in range(len(windows)))


@pytest.mark.parametrize("size", [2, 100, 101, 102, 1000])
def test_evaluation_windows_predict_every_token_once(size: int) -> None:
    stream = byte_stream(bytes(i % 251 for i in range(size)))
    windows = EvaluationWindows(stream, 100, name="text")
    rows = [windows[(0, i)] for i in range(len(windows))]
    targets = np.concatenate([row.targets for row in rows])
    assert np.array_equal(targets[targets != IGNORED_TARGET], stream.tokens[1:])
    assert sum(row.num_bytes for row in rows) == size - 1


def test_bytes_are_tokens(text_file: Path) -> None:
    data = opened(text_file, eval_length=50)
    raw = TEXT.encode()
    assert data.vocab_size == 256
    train, val = data.splits.train.tokens[:], data.splits.val.tokens[:]
    assert bytes(train) + bytes(val) == raw
    bytes(val).decode()  # the cut is not inside a character
    assert abs(len(val) - len(raw) / 10) < 4
    counted = sum(int(batch["num_bytes"].sum()) for batch in data.val_dataloader())
    assert counted == len(val) - 1


@pytest.mark.parametrize("kind", ["byte_level", "word_level"])
def test_tokenizers_account_for_every_byte(text_file: Path, kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    data = opened(text_file, tokenizer=tokenizer, val=str(text_file), eval_length=7)
    reference = Tokenizer.from_file(tokenizer)
    expected = reference.encode(TEXT, add_special_tokens=False)
    assert data.vocab_size == reference.get_vocab_size()
    stream = data.splits.val
    assert stream.tokens[:].tolist() == expected.ids
    counted = sum(int(batch["num_bytes"].sum()) for batch in data.val_dataloader())
    first = len(TEXT[: expected.offsets[0][1]].encode())
    assert counted == len(TEXT.encode()) - first
    targets = torch.cat([batch["targets"].flatten() for batch in data.val_dataloader()])
    assert targets[targets != IGNORED_TARGET].tolist() == expected.ids[1:]


def test_prompts_and_continuations(text_file: Path, byte_level: str) -> None:
    for data in (opened(text_file), opened(text_file, tokenizer=byte_level)):
        assert data.decode(data.encode("Grüße 🙂")) == "Grüße 🙂"
    assert opened(text_file).decode([0xFF]) == "\N{REPLACEMENT CHARACTER}"


def test_pieces_split_neither_text_nor_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mambarium.platform.data.text.spans.PIECE_BYTES", 7)
    for text in (TEXT[:400], "ü🙂" * 50, "\n" * 20, "ab"):
        (tmp_path / "t.txt").write_text(text)
        span = TextSpan(tmp_path / "t.txt", 0, len(text.encode()))
        parts = [piece for piece, _ in pieces([span])]
        assert b"".join(parts).decode() == text
        assert "".join(part.decode() for part in parts) == text
    (tmp_path / "t.bin").write_bytes(bytes(range(256)))
    assert b"".join(p for p, _ in pieces([TextSpan(tmp_path / "t.bin", 0, 256)])) == bytes(range(256))


def test_tokens_of_many_pieces_equal_those_of_bytes(
    text_file: Path, word_level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mambarium.platform.data.text.spans.PIECE_BYTES", 16)
    stream = opened(text_file, tokenizer=word_level, val=str(text_file)).splits.val
    assert stream.num_bytes(0, len(stream.tokens)) == len(TEXT.encode())


def test_text_is_tokenised_once(text_file: Path, byte_level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(text_file, tokenizer=byte_level).splits.train.tokens[:].copy()
    cache = text_file.parent / "user_cache" / "mambarium" / "tokens"
    folders = sorted(cache.iterdir())
    assert len(folders) == 2

    def fail(*_: object) -> None:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patched:
        patched.setattr(JsonTokenization, "tokenize", fail)
        again = opened(text_file, tokenizer=byte_level).splits.train
    assert np.array_equal(again.tokens[:], first)
    assert sorted(cache.iterdir()) == folders
    copied = pickle.loads(pickle.dumps(again))
    assert np.array_equal(copied.tokens[5:9], first[5:9]) and len(pickle.dumps(again)) < 2000

    text_file.write_text(TEXT + "more")
    assert len(opened(text_file, tokenizer=byte_level).splits.train.tokens) > len(first)

    (folders[0] / "tokens.bin").write_bytes(b"")
    text_file.write_text(TEXT)
    with pytest.raises(InputError, match="damaged; delete the folder"):
        _ = opened(text_file, tokenizer=byte_level).splits


def test_a_failed_tokenisation_leaves_nothing(tmp_path: Path, byte_level: str) -> None:
    (tmp_path / "latin.txt").write_bytes("Grüße ".encode("latin-1") * 100)
    data = opened(tmp_path / "latin.txt", tokenizer=byte_level, cache_dir=str(tmp_path / "tokens"))
    with pytest.raises(InputError, match=r"latin\.txt: not UTF-8 text") as caught:
        _ = data.splits
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "tokens").iterdir())
    assert len(opened(tmp_path / "latin.txt").splits.train.tokens) == 540


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, text_file: Path, byte_level: str) -> None:
    import resource

    data = opened(text_file, tokenizer=byte_level, cache_dir=str(tmp_path / "tokens"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"tokens: cannot keep tokenised text there .*data\.cache_dir") as caught:
            _ = data.splits
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "tokens").iterdir())
    assert len(data.splits.train.tokens) > 1000


def test_files_patterns_and_folders(tmp_path: Path) -> None:
    (tmp_path / "books" / "deep").mkdir(parents=True)
    (tmp_path / "books" / "b.txt").write_text("b" * 100)
    (tmp_path / "books" / "deep" / "a.txt").write_text("a" * 100)
    (tmp_path / "books" / "c.md").write_text("c" * 100)
    for source, text in (
        (str(tmp_path / "books"), b"b" * 100 + b"a" * 100),
        (str(tmp_path / "books" / "*.md"), b"c" * 100),
        ([str(tmp_path / "books" / "c.md"), str(tmp_path / "books" / "b.txt")], b"c" * 100 + b"b" * 100),
    ):
        data = TextFiles(source, length=8)
        assert data.raw_text("train", 10**6) + data.raw_text("val", 10**6) == text
        assert data.raw_text("train", 5) == text[:5]


def test_tokens_with_absurd_numbers_are_refused(text_file: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"zeile": 0, "[UNK]": 1}, unk_token="[UNK]"))
    (tmp_path / "huge.json").write_text(tokenizer.to_str().replace('"[UNK]":1', '"[UNK]":4000000000'))
    with pytest.raises(InputError, match=r"huge\.json: has 2 tokens with numbers up to 4000000000, .* without gaps"):
        _ = opened(text_file, tokenizer=str(tmp_path / "huge.json")).vocab_size


def test_bad_text(tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "no_text").mkdir()
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "tokenizer.json").write_text("{}")
    for source, words in (
        (tmp_path / "missing.txt", "no such text file"),
        (tmp_path / "no_text", "no .txt files"),
        (tmp_path / "empty.txt", "no text"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            _ = opened(source).splits
        assert "\n" not in str(caught.value) and str(source) in str(caught.value)
    with pytest.raises(InputError, match=r"not a tokenizer\.json"):
        _ = opened(text_file, tokenizer=str(tmp_path / "tokenizer.json")).vocab_size
    with pytest.raises(InputError, match="cannot read this tokenizer file"):
        _ = opened(text_file, tokenizer=str(tmp_path / "none.json")).vocab_size
    with pytest.raises(InputError, match=r"lower data\.length"):
        opened(text_file, length=10**6).training_samples()
    with pytest.raises(InputError, match=r"data\.val_fraction"):
        opened(text_file, val_fraction=0.0)
    with pytest.raises(InputError, match=r"set data\.cache_dir"):
        _ = opened(text_file, cache_dir=str(text_file)).splits


def test_a_tokenizer_that_fails_at_a_text_is_named(tmp_path: Path, text_file: Path) -> None:
    """Faults that the library finds when it meets a text: as an error, and as a panic of its Rust code."""
    file = tmp_path / "tokenizer.json"
    vocabulary = {"a": 0, "b": 1, "ab": 2}
    for fault, words in (
        ({"unk_token": "?"}, "Unk token `\\?` not found"),
        ({"continuing_subword_prefix": "ü", "merges": ["a b"]}, "slice index|byte index|range"),
    ):
        model = {"type": "BPE", "vocab": vocabulary, "merges": [], **fault}
        file.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
        with pytest.raises(
            InputError, match=f"tokenizer.json: not a tokenizer.json of the tokenizers library .*{words}"
        ):
            opened(text_file, tokenizer=str(file)).training_samples()
