"""CheXNet: a DenseNet that scores every finding by itself, each weighted by how rare it is.

L = - w₊ y log p - w₋ (1 - y) log (1 - p) for each finding, w₊ = |N| / (|P| + |N|), w₋ = |P| / (|P| + |N|)
over the training cases; a finding that is not known for a case is not counted there. Where classes exclude
each other they share a softmax instead. The paper's DenseNet-121 is planned where there is time for it;
published weights can be given as `settings.weights`, a `.safetensors` file. The findings' prevalence, which
the weights hide, is brought back into the probabilities; these are calibrated by one temperature, and a
finding is said to be there from the probability on that had the highest F1 on validation cases.
"""

from __future__ import annotations

from isocenter.methods.classes import Classifier

CARD = {
    "title": "CheXNet",
    "reference": (
        "Rajpurkar P, Irvin J, Zhu K, et al. CheXNet: radiologist-level pneumonia detection on chest X-rays "
        "with deep learning. arXiv:1711.05225, 2017."
    ),
    "row": "C1",
    "summary": "DenseNet-121 under weighted binary cross-entropy, findings that are not known left out.",
    "published": {
        "ChestX-ray14 pneumonia, F1 over 420 films": ".435 (.387, .481); radiologists .387",
        "ChestX-ray14 pneumonia, ROC AUC": ".768",
    },
}

METHOD = Classifier
