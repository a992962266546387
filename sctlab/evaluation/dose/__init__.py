"""What an error in HU means in gray: plans made on the reference CT, calculated again on the synthetic one."""

from sctlab.evaluation.dose.gamma import GammaResult, gamma_pass_rate

__all__ = ["GammaResult", "gamma_pass_rate"]
