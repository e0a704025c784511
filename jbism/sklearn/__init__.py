"""Estimators for scikit-learn: needs the extra ``jbism[sklearn]``; ``import jbism.sklearn``."""

try:
    from jbism.sklearn._estimator import GaussianRBM
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"jbism.sklearn needs {error.name}: pip install 'jbism[sklearn]'", name=error.name
    ) from error

__all__ = ["GaussianRBM"]
