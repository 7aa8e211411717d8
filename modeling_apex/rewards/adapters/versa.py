"""versa: a metric for its registry."""

from typing import Any

from modeling_apex.rewards.song_reward import SongReward

PREFIX = "apex_"


def build_metric_class() -> type:
    """
    Build `ApexMetric`, a `BaseMetric` of the versa that is installed.

    Raises:
        `ImportError`: If versa is not installed.
    """
    from versa.definition import BaseMetric, MetricCategory, MetricMetadata, MetricType

    class ApexMetric(BaseMetric):
        """Every score of a model of this package, with the prefix `apex_`; no reference is needed."""

        def _setup(self) -> None:
            self.reward = SongReward(self.config.get("model"))

        def compute(self, predictions: Any, references: Any = None, metadata: Any = None) -> dict[str, float]:
            rate = (metadata or {}).get("sample_rate", 16_000)
            output = self.reward(predictions, rate)
            return {PREFIX + name: float(column[0]) for name, column in output.components.items()}

        def get_metadata(self) -> Any:
            return MetricMetadata(
                name="apex",
                category=MetricCategory.INDEPENDENT,
                metric_type=MetricType.DICT,
                requires_reference=False,
                requires_text=False,
                gpu_compatible=True,
                auto_install=False,
                dependencies=["modeling_apex"],
                description="Popularity and aesthetics of AI-made songs",
            )

    return ApexMetric


def register_apex_metric(registry: Any) -> None:
    """Register the metric under the name `apex`."""
    metric: Any = build_metric_class()
    registry.register(metric, metric.get_metadata(metric), aliases=["apex_music"])
