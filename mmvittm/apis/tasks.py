"""What is timed: the part of a model that inference runs, as a module from one image tensor to raw outputs."""

from mmengine.model import BaseModel, revert_sync_batchnorm
from mmpretrain.models import BaseClassifier
from mmseg.models import EncoderDecoder
from mmseg.models.segmentors import CascadeEncoderDecoder
from torch import Tensor, nn

from ..errors import UserError


class SegmentorNetwork(nn.Module):
    """A segmentor from the normalised images `(B, 3, H, W)` to the logits `(B, K, h, w)` its decode head computes.

    Takes ``model`` over: its auxiliary heads, which inference does not run, are removed.
    """

    measures = 'backbone, neck and decode head on the whole image, without the final upsampling of the logits'

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        if isinstance(model, CascadeEncoderDecoder):
            raise UserError('a CascadeEncoderDecoder has several decode heads: only its backbone can be timed')
        if model.with_auxiliary_head:
            del model.auxiliary_head
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.decode_head.forward(self.model.extract_feat(images))


class ClassifierNetwork(nn.Module):
    """A classifier from the normalised images `(B, 3, H, W)` to what its head gives in mode ``'tensor'``."""

    measures = 'backbone, neck and head on the whole image'

    def __init__(self, model: BaseClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward(images, mode='tensor')


class BackboneNetwork(nn.Module):
    """The backbone alone, from the normalised images `(B, 3, H, W)` to its feature maps."""

    measures = 'the backbone alone on the whole image'

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(images)


# The network of each kind of model; a new kind is a new row.
NETWORKS: dict[type[nn.Module], type[nn.Module]] = {
    EncoderDecoder: SegmentorNetwork,
    BaseClassifier: ClassifierNetwork,
}


def inference_network(model: nn.Module, backbone_only: bool = False) -> nn.Module:
    """The part of ``model`` that inference runs, as a module from one image tensor to raw outputs, in eval mode.

    Its parameters are those that inference uses; it has an attribute ``measures`` that says what it spans. SyncBN
    becomes BN, which computes the same in eval mode and runs without a GPU too.

    Raises:
        UserError: If ``model`` is neither an mmseg ``EncoderDecoder`` nor an mmpretrain classifier, or has no backbone
            where that is asked for.
    """
    kind = next((network for base, network in NETWORKS.items() if isinstance(model, base)), None)
    if kind is None:
        known = ', '.join(base.__name__ for base in NETWORKS)
        raise UserError(f'a {type(model).__name__} cannot be timed: the model must be one of {known}')
    if backbone_only and not isinstance(getattr(model, 'backbone', None), nn.Module):
        raise UserError(f'a {type(model).__name__} has no backbone to be timed alone')
    network = revert_sync_batchnorm(BackboneNetwork(model) if backbone_only else kind(model))
    network.eval()  # not chained: mmpretrain's backbones return None here
    return network
