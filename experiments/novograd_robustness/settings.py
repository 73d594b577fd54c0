"""The keys of ``task:`` of NovoGrad's robustness: of a classifier, of a language model, or of what optimizers keep."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reltrust.data.sizes import TOKENS, TRAINING_EXAMPLES
from reltrust.errors import SettingsError
from reltrust.schema import STRICT, Positive
from reltrust.settings import Settings

if TYPE_CHECKING:
    import torch

    from .analysis import StateBytes
    from .task import ScaledLanguageModel, ScaledPerceptron

EVALUATION_BATCH = 10  # columns of the validation text


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Subject:
    """How wide the range of good learning rates is, and from which initial weights: the claims of arXiv 1905.11286."""

    protocol: ClassVar[int] = 1
    axes: ClassVar[tuple[str, ...]] = ("init_scale",)
    pack_keys: ClassVar[tuple[str, ...] | None] = ("model", "width", "layers", "heads", "bptt", "words")

    model: Literal["perceptron", "transformer"]
    init_scale: Annotated[float, Field(gt=0, le=1_000)]  # times the initial weight matrices
    width: Positive  # of hidden layers; of embedding and layers
    layers: Positive  # hidden ones
    heads: Positive | None = None  # of a transformer, as all that follows
    bptt: Positive | None = None  # words of a sequence
    words: Annotated[int, Field(ge=2)] | None = None  # of the validation text, the first ones

    @property
    def slug(self) -> str:
        return f"{self.model}-init{self.init_scale:g}"

    def check(self, settings: Settings) -> None:
        given = {"heads": self.heads, "bptt": self.bptt, "words": self.words}
        if self.model == "perceptron":
            for key, value in given.items():
                if value is not None:
                    raise SettingsError(f"task.{key}={value}: must be null for task.model=perceptron")
            if settings.training is not None:
                settings.data_among(TRAINING_EXAMPLES, "images")
            return
        for key, value in given.items():
            if value is None:
                raise SettingsError(f"task.{key}=null: must be a number for task.model=transformer")
        if settings.training is None:
            raise SettingsError(f"task.model={self.model}: must be perceptron in an analysis")
        heads, bptt, words = self.heads or 1, self.bptt or 1, self.words or 2
        if self.width % 2 or self.width % heads:
            raise SettingsError(f"task.width={self.width}: must be even and a multiple of task.heads={heads}")
        name = settings.data_among(TOKENS, "a text")
        training, columns = settings.training, TOKENS[name][0] // settings.training.batch_size
        if bptt >= columns:
            raise SettingsError(
                f"task.bptt={bptt}: must be less than {columns}, the length of data={name} in "
                f"training.batch_size={training.batch_size} columns"
            )
        if training.steps > (whole := (columns - 1) // bptt):
            raise SettingsError(f"training.steps={training.steps}: must be at most {whole}, an epoch of data={name}")
        if not EVALUATION_BATCH * (bptt + 1) <= words <= TOKENS[name][1]:
            raise SettingsError(
                f"task.words={words}: must be between {EVALUATION_BATCH * (bptt + 1)} and the {TOKENS[name][1]} words "
                f"that data={name} has to validate on"
            )

    def build(
        self, settings: Settings, device: "torch.device"
    ) -> "ScaledPerceptron | ScaledLanguageModel | StateBytes":
        if settings.training is None:
            from .analysis import StateBytes

            return StateBytes(self)
        assert settings.data is not None
        batch_size, parts = settings.training.batch_size, settings.trainer.accumulate
        if self.model == "perceptron":
            from reltrust.data import images

            from .task import ScaledPerceptron

            return ScaledPerceptron(
                images.load(settings.data.name, settings.machine.data, device),
                init_scale=self.init_scale,
                hidden_layers=self.layers,
                width=self.width,
                init="torch",
                batch_size=batch_size,
                seed=settings.seed,
                device=device,
                parts=parts,
            )
        from reltrust.data import text

        from .task import ScaledLanguageModel

        data = text.load(settings.data.name, settings.machine.data, device)
        return ScaledLanguageModel(data, self, batch_size=batch_size, seed=settings.seed, parts=parts)
