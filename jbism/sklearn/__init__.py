"""Estimators for scikit-learn: needs the extra ``jbism[sklearn]``; ``import jbism.sklearn``."""

try:
    from jbism.sklearn._estimator import GaussianRBM
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]
    raise ModuleNotFoundError(
        f"jbism.sklearn needs {package}: pip install 'jbism[sklearn]'", name=error.name
    ) from error

__all__ = ["GaussianRBM"]
