"""The mGEM paper's network, and a function that gives any network one head a task.

Avalanche has the MLP (``SimpleMLP``) and the reduced ResNet-18 (``SlimResNet18``).
"""

from avalanche_mgem.models.multi_head import multi_head
from avalanche_mgem.models.paper_cnn import PaperCNN

__all__ = ["PaperCNN", "multi_head"]
