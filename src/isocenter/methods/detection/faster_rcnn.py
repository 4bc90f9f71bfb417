"""Faster R-CNN: one network proposes regions, a second head on the same features says what each of them is.

Losses and sampling are those of `methods/proposals.py`. Three things differ from the paper: the planned
encoder with a feature pyramid takes the place of VGG-16's last map (Lin et al., CVPR 2017); RoIAlign that of
RoI pooling (He et al., ICCV 2017), since rounding costs small objects their overlap; and an anchor is
positive from an IoU of .5, not .7, because anchors, few a place, are planned to reach that with nearly all
objects.
"""

from __future__ import annotations

from isocenter.methods.proposals import RegionDetector

CARD = {
    "title": "Faster R-CNN",
    "reference": (
        "Ren S, He K, Girshick R, Sun J. Faster R-CNN: towards real-time object detection with region "
        "proposal networks. NeurIPS 2015, 91–99."
    ),
    "row": "D3",
    "summary": "A network proposes regions; a second head on the same features classifies and corrects them.",
    "published": {"VOC 2007 mAP at IoU .5, trained on VOC 2007": ".699", "seconds per image, VGG-16": ".2"},
}


class FasterRCNN(RegionDetector):
    """Proposals and regions, on whole windows of the image."""


METHOD = FasterRCNN
