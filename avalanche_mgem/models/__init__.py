"""The paper's network, and one head a task for any network. MLP and reduced ResNet-18 are Avalanche's."""

from avalanche_mgem.models.multi_head import multi_head
from avalanche_mgem.models.paper_cnn import PaperCNN

__all__ = ["PaperCNN", "multi_head"]
