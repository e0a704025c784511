"""Deep EBLVM on the 8x8 digits by VaGES, its particles refined by Langevin steps."""

from experiments.configs import digits_deep


def get_config():
    """As digits_deep, where it learns; the departures are what a gradient by samples of h asks for.

    The covariance of VaGES explodes where q is far from p(h|v), as it is before q has been fitted:
    ten Langevin steps close the gap. And p(h|v) has to exist: with as few rows of A as digits_deep
    has for its 50 latents, some direction of h lowers all rows together, and the energy is bounded.
    """
    config = digits_deep.get_config()
    config.name = "digits_vages"
    config.method.name = "vages"
    config.method.vages.num_particles = 5
    config.method.vages.refinement.num_steps = 10
    config.method.vages.refinement.step_size = 1e-2
    config.method.vages.refinement.noise_scale = 0.1  # the root of the step size: temperature 1
    config.energy.deep_eblvm.num_latents = 16
    config.energy.deep_eblvm.num_features = 128
    config.theta_optimizer.learning_rate = 3e-4
    return config
