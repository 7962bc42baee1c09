"""Scores of samples."""

from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit
from tests.tinyddpm.evaluation import (
    test_classifier,
    test_frechet,
    test_kernel_distance,
    test_precision_recall,
    test_quality,
)
from tinyddpm import data

FRECHET, QUALITY = "tinyddpm.evaluation.frechet", "tinyddpm.evaluation.quality"
LOOK, MMD = "tinyddpm.evaluation.classifier:look", "tinyddpm.evaluation.kernel_distance:mmd"
PRECISION = "tinyddpm.evaluation.precision_recall"
BY_HAND = check(test_quality.test_every_score_by_hand)
UNROUNDED = data.to_unit(test_classifier.pictures(3))

MUTANTS = (
    Mutant(
        22,
        "real images of another number",
        (Edit(f"{QUALITY}:real_images", "distances(known.first(n), seen)", "distances(known, seen)"),),
        (BY_HAND,),
    ),
    Mutant(
        22,
        "one draw of real images again and again",
        (Edit(f"{QUALITY}:frechet_draws", "[first : first + n]", "[:n]"),),
        (check(test_quality.test_the_yardstick_is_the_mean_of_draws_that_share_no_image), BY_HAND),
    ),
    Mutant(
        22,
        "the bias of half the difference",
        (Edit(f"{QUALITY}:frechet_bias", "(here - there) / (1 - n / m)", "here - there"),),
        (check(test_quality.test_the_bias_is_told_and_falls_with_the_number),),
    ),
    Mutant(
        43,
        "covariance by N",
        (Edit(f"{FRECHET}:gaussian_of", "/ (n - 1)", "/ n"),),
        (check(test_frechet.test_the_covariance_is_by_n_less_one), check(test_frechet.test_it_equals_scipys)),
        passes=(check(test_frechet.test_what_it_does_not_depend_on),),
    ),
    Mutant(
        43,
        "complex part of the root dropped",
        (Edit(f"{FRECHET}:symmetric_root", "values[0] < -1e-8 * max(values[-1], 0) or values[-1] < 0", "False"),),
        (check(test_frechet.test_a_product_without_a_real_root),),
        passes=(check(test_frechet.test_it_equals_scipys), check(test_frechet.test_gaussians_that_share_their_axes)),
    ),
    Mutant(
        43,
        "fewer images than features",
        (Edit(f"{FRECHET}:gaussian_of", "n <= dimensions", "n < 2"),),
        (check(test_frechet.test_fewer_images_than_features),),
        passes=(check(test_frechet.test_it_equals_scipys),),
    ),
    Mutant(
        43,
        "bytes on one side only",
        (
            Edit(LOOK, "images.dtype != np.uint8 or ", ""),
            Edit(LOOK, "to_unit(", "(to_unit if images.dtype == np.uint8 else np.float32)("),
        ),
        (check(test_classifier.test_only_bytes_of_its_size_are_looked_at, images=UNROUNDED),),
        passes=(BY_HAND,),
    ),
    Mutant(
        43,
        "pairs of an image with itself",
        (Edit(MMD, "(within_x.sum() - np.trace(within_x)) / (n * (n - 1))", "within_x.mean()"),),
        (check(test_kernel_distance.test_it_equals_the_loops), check(test_kernel_distance.test_it_is_unbiased)),
    ),
    Mutant(
        43,
        "precision for recall",
        (
            Edit(
                f"{PRECISION}:precision_and_recall",
                "inside(samples, real, k), inside(real, samples, k)",
                "inside(real, samples, k), inside(samples, real, k)",
            ),
        ),
        (
            check(test_precision_recall.test_good_samples_of_one_kind_are_precise_and_recall_little),
            check(test_precision_recall.test_by_hand),
        ),
        passes=(check(test_precision_recall.test_of_the_same_images_both_are_one),),
    ),
    Mutant(
        43,
        "a point its own neighbour",
        (Edit(f"{PRECISION}:radii", "np.inf", "0"),),
        (
            check(test_precision_recall.test_a_point_is_not_its_own_neighbour),
            check(test_precision_recall.test_they_equal_the_loops),
        ),
        passes=(check(test_precision_recall.test_of_the_same_images_both_are_one),),
    ),
    Mutant(
        43,
        "labels off by one",
        (Edit(f"{QUALITY}:shares", "found == asked", "found == asked + 1"),),
        (check(test_quality.test_the_classes_asked_for_are_those_of_the_labels), BY_HAND),
    ),
)
