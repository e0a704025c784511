"""What the judge prints: each figure under its own heading."""

from experiments import judge_report

FIGURES = {
    "model": "mnist_deep",
    "step": 3_000,
    "data": "mnist",
    "samples": "drawn with seed 0",
    "extractor": {"name": "small classifier features", "test_accuracy": 0.988},
    "sample_quality": [
        {
            "images": "v | h",
            "num_images": 1_200,
            "frechet_distance": 1.25,
            "kernel_distance": 0.5,
            "kernel_distance_standard_error": 0.03,
        }
    ],
    "linear_probes": [
        {
            "features": "mean of q",
            "num_features": 50,
            "classifier": "linear SVM",
            "test_accuracy": 0.75,
            "train_accuracy": 0.875,
            "converged": False,
        }
    ],
    "posterior_fisher_divergence": 12.5,
    "other_images": [
        {
            "other_images": "uniform noise",
            "score": score,
            "auroc": auroc,
            "auroc_low": auroc - 0.125,
            "auroc_high": auroc + 0.125,
        }
        for score, auroc in (("-E", 0.5), ("-‖score‖", 0.75))
    ],
}
TEXT = """\
mnist_deep after 3,000 steps, on test images of mnist

Samples (drawn with seed 0) against test images, by small classifier features (test accuracy 98.8%)
| images | number | Fréchet distance | kernel distance |
| --- | --- | --- | --- |
| v \\| h | 1,200 | 1.25 | 0.5 ± 0.03 |

Labels read by a linear classifier
| features | number | classifier | test accuracy | train accuracy |
| --- | --- | --- | --- | --- |
| mean of q | 50 | linear SVM (not converged) | 75.0% | 87.5% |

Fisher divergence of q(h|v) from p(h|v): 12.5

Test images told from others: AUROC (95 %)
| other images | -E | -‖score‖ |
| --- | --- | --- |
| uniform noise | 0.500 (0.375 to 0.625) | 0.750 (0.625 to 0.875) |"""


def test_every_figure_stands_under_its_heading():
    assert judge_report.text(FIGURES) == TEXT


def test_parts_that_do_not_apply_are_left_out_and_few_samples_are_said_to_be_few():
    few = FIGURES["sample_quality"][0] | {"num_images": 999}
    text = judge_report.text(
        FIGURES
        | {"linear_probes": None, "posterior_fisher_divergence": None, "sample_quality": [few]}
    )
    assert "Labels read" not in text
    assert "Fisher" not in text
    assert "999 images are few: distances want 1,000 or more (--num_samples)" in text
