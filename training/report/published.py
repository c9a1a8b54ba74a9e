"""Published figures on the public data sets, and where they were published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Recall@20 and MRR@20 in percent; `mrr` is None where only Recall@20 was given."""

    recall: float
    mrr: float | None
    source: str
    remark: str = ""

    def __str__(self) -> str:
        figures = f"{self.recall:.2f} / {'–' if self.mrr is None else f'{self.mrr:.2f}'}"
        return f"{figures} ({self.remark})" if self.remark else figures


# The paper that made this split of the two data sets the common one. It re-ran or quotes older models.
_SRGNN = "Wu et al. 2019 (SR-GNN)"
_QUOTED = "later papers that quote it"

# data set -> model -> figures
PUBLISHED = {
    "diginetica": {
        "pop": Published(0.89, 0.20, _SRGNN),
        "spop": Published(21.06, 13.68, _SRGNN),
        "item_knn": Published(35.75, 11.57, _SRGNN),
        "stan": Published(51.21, None, _QUOTED),
        "bprmf": Published(5.24, 1.98, _SRGNN),
        "gru4rec": Published(29.45, 8.33, _SRGNN, "a port, as quoted by later papers"),
        "narm": Published(49.70, 16.17, _SRGNN),
        "stamp": Published(45.64, 14.32, _SRGNN),
        "srgnn": Published(50.73, 17.59, _SRGNN),
        "niser": Published(53.39, 18.72, "Gupta et al. 2019"),
        "sgnn_hn": Published(55.67, 19.45, "Pan et al. 2020"),
        "gce_gnn": Published(54.22, 19.04, "Wang et al. 2020"),
        "pen4rec": Published(52.50, 18.56, "Hu et al. 2021"),
    },
    "yoochoose1_64": {
        "pop": Published(6.71, 1.65, _SRGNN),
        "spop": Published(30.44, 18.35, _SRGNN),
        "item_knn": Published(51.60, 21.81, _SRGNN),
        "stan": Published(68.38, None, _QUOTED),
        "bprmf": Published(31.31, 12.08, _SRGNN),
        "narm": Published(68.32, 28.63, _SRGNN),
        "stamp": Published(68.74, 29.67, _SRGNN),
        "srgnn": Published(70.57, 30.94, _SRGNN),
        "niser": Published(71.27, 31.61, "Gupta et al. 2019"),
        "sgnn_hn": Published(72.06, 32.61, "Pan et al. 2020"),
        "pen4rec": Published(71.53, 31.71, "Hu et al. 2021"),
    },
}


def published(dataset: str, model: str) -> Published | None:
    """What is published of `model` on `dataset`, if anything."""
    return PUBLISHED.get(dataset, {}).get(model)
