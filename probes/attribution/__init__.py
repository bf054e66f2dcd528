"""How much does each part of an input carry? One method per file; captum is imported when a method runs, not before."""

from probes.attribution.gradient_x_input import gradient_x_input
from probes.attribution.integrated_gradients import IntegratedGradients, integrated_gradients
from probes.attribution.occlusion import occlusion
from probes.attribution.rollout import attention_rollout
from probes.attribution.site_function import SiteFunction, site_function

__all__ = ["IntegratedGradients", "SiteFunction", "attention_rollout", "gradient_x_input", "integrated_gradients", "occlusion", "site_function"]
