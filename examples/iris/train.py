"""Trains a classifier on Fisher's irises (they come with scikit-learn), measures it, and saves it as skops.

python train.py && hansang serve iris.skops
"""

from pathlib import Path

import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SAVED = Path(__file__).with_name("iris.skops")


def train() -> float:
    """Train, save, and return the share of irises it names rightly that it has never seen."""
    irises = load_iris()
    kinds = irises.target_names[irises.target]
    seen, unseen, kinds_seen, kinds_unseen = train_test_split(
        irises.data, kinds, test_size=0.3, stratify=kinds, random_state=0
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression())
    classifier.fit(seen, kinds_seen)
    skops.io.dump(classifier, SAVED)
    return float(classifier.score(unseen, kinds_unseen))


if __name__ == "__main__":
    print(f"{train():.1%} of the irises it had never seen are named rightly; saved as {SAVED.name}")
