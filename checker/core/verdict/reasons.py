"""The texts of a check's reasons and next steps, by reason id, with those of a comparison."""

from ....thresholds.statistics import DEFINITIONS
from .comparison_reasons import COMPARISON_RULES
from .kinds import EVALUATE, MEASURE_SHIFT, ReasonRule

NOT_MENDABLE = (
    "one_sided",
    "end_not_calibrated",
    "mean_on_one_feature",
    "width_not_calibrated",
    "trained_to_match",
)
"""Reasons that no other run of the same file takes away."""
RULES: dict[str, ReasonRule] = {
    "too_weak": ReasonRule(
        "absent",
        "the most extreme features are too weak",
        EVALUATE,
        f"Strength: {DEFINITIONS['strength']}. Its upper bound lies below the threshold: no features stand out as "
        "they do in the reference encoders. Some encoders that do well on shifted data show nothing either (OpenCLIP "
        "ViT-bigG/14). This is not evidence of fragility.",
    ),
    "not_persistent": ReasonRule(
        "absent",
        "the most extreme feature is extreme in too few images",
        EVALUATE,
        f"Persistence: {DEFINITIONS['outlier_frequency']}. Its upper bound lies below the threshold, or no feature is "
        "extreme in half of the images: what is extreme changes from image to image, as in sparse features. In the "
        "reference encoders it is the same feature in at least three of four images. This is not evidence of "
        "fragility.",
    ),
    "one_sided": ReasonRule(
        "not_applicable",
        "one-sided representation",
        MEASURE_SHIFT,
        f"Two-sidedness: {DEFINITIONS['two_sidedness']}. Its upper bound lies below the threshold, as after ReLU, "
        "SiLU or hard-swish. Such features look extreme by themselves (a supervised EfficientNet-Lite0 has an "
        "activation kurtosis of 17), and the thresholds were fitted to two-sided representations, so they do not "
        "apply.",
    ),
    "undecided": ReasonRule(
        "not_established",
        "the evidence does not decide",
        "Give more varied in-distribution images (`--images`, `--max-images`).",
        "A confidence interval contains its threshold after all images that were given. In `robustcheck compare` it is "
        "the interval of a ratio, or that of a feature's correlation.",
    ),
    "not_measurable": ReasonRule(
        "not_established",
        "a deciding statistic could not be measured",
        "Give more and different images. If that does not help, look at the model's output for a constant or broken "
        "tensor.",
        "A statistic or its bound does not exist for these representations: fewer than two images, identical "
        "representations, or three features or fewer.",
    ),
    "too_few_images": ReasonRule(
        "not_established",
        "too few varied images",
        "Give more varied photos (`--images`) or raise `--max-images`; a first look, at the bundled ones: `robustcheck "
        "MODEL`.",
        "On few images a few features can look extreme: supervised ResNet-50s had a strength of 13 on 13 photos of "
        "bags and of 165 on 20 product photos. Duplicates and near-duplicates do not count.",
    ),
    "duplicate_images": ReasonRule(
        "not_established",
        "duplicate images",
        "Remove the duplicates from the photos.",
        "The same picture counted twice makes the confidence intervals too narrow.",
    ),
    "near_duplicate_images": ReasonRule(
        "not_established",
        "near-duplicate images",
        "Remove near-duplicates (video frames, crops, re-encodings) from the photos.",
        "Pictures that are almost the same make the confidence intervals too narrow.",
    ),
    "images_not_varied": ReasonRule(
        "not_established",
        "images are not varied",
        "Use images that cover what the model will see in production.",
        "The images look alike as a set. A feature that is extreme in all of them may say more about the images "
        "than about the model.",
    ),
    "images_not_photo_like": ReasonRule(
        "not_established",
        "images do not look like photos",
        "Use in-distribution photos. Noise and synthetic textures fake outlier features.",
        "Noise images and synthetic textures made a supervised network show persistent outlier features that it "
        "does not have on photos.",
    ),
    "representations_alike": ReasonRule(
        "not_established",
        "representations are almost all alike",
        "Check the model and its preprocessing: it hardly reacts to the images. Then use more varied images.",
        "Almost all of the representation is the same for every image, or the same few representations come again and "
        "again. Any large feature is then constant, whatever the model has learned; an untrained or broken model "
        "looks like this.",
    ),
    "little_content": ReasonRule(
        "not_established",
        "the photos, or what the model makes of them, hardly differ",
        "Check again with photos of many kinds of things. If that gives the same, measure the model's accuracy on its "
        "own task.",
        "The representations hardly differ from their mean, or in few directions only (relative variance, effective "
        "rank). Either the photos are of one narrow kind (cats, X-rays, phones: 6 of 41 sets of zero-shot CLIP vectors "
        "were WARN by this alone), or the model answers little: a network that learned no more of another encoder than "
        "the mean of its vectors has the outlier features of that mean. A network that learned to match single vectors "
        "is not found in this way.",
    ),
    "constant_feature": ReasonRule(
        "not_established",
        "an outlier feature is almost constant",
        "Check the export. A feature that hardly changes can be a constant of the graph, which no image moves.",
        "The raw value of a strong feature hardly changes: its SD over the images is below 2 % of its mean. A bad "
        "export (a NaN guard, a missing norm, padding) makes such a feature, and so does a model that has learned "
        "little. Outlier features of real encoders vary by 4 % and more on photos.",
    ),
    "nonfinite_representations": ReasonRule(
        "not_established",
        "non-finite representations",
        "Run the model in fp32, or find the images and the operator that overflow.",
        "NaN or infinity means that the model failed on an image. It is never averaged in, and a model that fails "
        "on a photo cannot pass.",
    ),
    "constant_representations": ReasonRule(
        "not_established",
        "constant representations",
        "Check the model and its preprocessing on the images named.",
        "All features had the same value: the statistic does not exist for such a representation.",
    ),
    "untrained": ReasonRule(
        "not_established",
        "untrained model",
        "Export the model with its weights.",
        "The file's contract records that the weights are random.",
    ),
    "file_changed": ReasonRule(
        "not_established",
        "the graph or the weights are not those that were exported",
        "Without the file that it was made from, export the model again. With that file (OLD.onnx), take its contract "
        "over: `robustcheck export onnx MODEL --original OLD.onnx -o NEW.onnx`.",
        "The contract holds a digest of the graph and the weights, and the file does not match it. A damaged copy "
        "looks like this: one byte of one bias, or one attribute of a node, can make an outlier feature. Tools that "
        "rewrite a file (onnxsim, ONNX Runtime's quantiser, a conversion to fp16) keep the contract, although what "
        "was measured for it, such as the parity with the original, no longer holds.",
    ),
    "trained_to_match": ReasonRule(
        "not_applicable",
        "trained to match another encoder's vectors",
        MEASURE_SHIFT,
        "A model trained to give another encoder's vectors (distillation, feature matching) shows that encoder's "
        "outlier features because they are in the mean of its targets, whatever else it has learned: the less it has "
        "learned, the clearer they are. The thresholds were calibrated on encoders that were not trained in this way.",
    ),
    "assumed_preprocessing": ReasonRule(
        "not_established",
        "preprocessing was assumed",
        "Name what the model was trained with: `--preprocess clip` for models trained like CLIP, `--preprocess "
        "imagenet` for models trained on ImageNet, `--preprocess FILE` for others. Or put the library's configuration "
        "next to the file.",
        "An ONNX file does not define how pixels become inputs. With the wrong mean, size or colour order the model "
        "sees out-of-distribution inputs, and those fake outlier features.",
    ),
    "preprocessing_against_contract": ReasonRule(
        "not_established",
        "preprocessing is not the contract's",
        "Leave out `--preprocess`: `robustcheck MODEL --images PHOTOS`. Or export the model again with the right one.",
        "The file defines the preprocessing of its model, and another one was forced on it. Out-of-distribution "
        "inputs fake outlier features.",
    ),
    "normalised_twice": ReasonRule(
        "not_established",
        "pixels are normalised twice",
        "Normalise in one of the two only. Give `--preprocess FILE` without what the graph does itself, or export the "
        "model without it.",
        "Both the preprocessing and the graph scale the pixels (a mean, a standard deviation or a factor such as "
        "1/255 comes before the graph's first layer), and together they make of ordinary photos values that no "
        "family of encoders is given. Out-of-distribution inputs fake outlier features. Two steps that add up to one "
        "sound normalisation do not give this reason.",
    ),
    "unusual_pixels": ReasonRule(
        "not_established",
        "pixels are scaled as for no known encoder",
        "Look at `rescale`, `mean` and `std`: `robustcheck inspect MODEL -v`. Where tensors were given, look at these. "
        "Common faults are a factor of 255 and a forgotten mean.",
        "Encoders get photos in 0 to 1, normalised to about zero mean and a standard deviation of 0.5 to 2, or in 0 "
        "to 255 with or without their mean. The first layer of this model gets neither. Out-of-distribution inputs "
        "fake outlier features.",
    ),
    "assumed_tensor": ReasonRule(
        "not_established",
        "the representation was assumed",
        "Name the tensor that you deploy (`--tensor NAME`). The file has these: `robustcheck inspect MODEL -v`.",
        "The graph does not tell whether it is an encoder or a classifier, so the tensor that was read is a guess.",
    ),
    "tensor_not_calibrated": ReasonRule(
        "not_applicable",
        "no threshold for this tensor",
        "Measure the representation: leave out `--tensor` and `--pool`. Or use a profile calibrated on this tensor.",
        "A threshold holds only for the kind of tensor it was calibrated on: a projection or a rotation changes the "
        "kurtosis.",
    ),
    "end_not_calibrated": ReasonRule(
        "not_applicable",
        "no threshold for a representation that ends like this",
        MEASURE_SHIFT,
        "No representation of this kind with outlier features was among the reference sets, so the thresholds say "
        "nothing about it. Learned scales of a final norm make or hide large features, a squashing activation bounds "
        "them, and a linear map of rectified features or a change of basis (PCA, SVD) can put the mean of all images "
        "on one axis, where it reads as an outlier feature that the encoder does not have.",
    ),
    "mean_on_one_feature": ReasonRule(
        "not_applicable",
        "the mean of all images lies along the strongest features alone",
        "If a rotation or a reduction (SVD, PCA) was folded into the last layer, check the encoder without it. "
        "Otherwise measure it on its own task. To accept it: `robustcheck MODEL --images PHOTOS --waivers FILE`.",
        "A singular value decomposition that is folded into the last layer makes an outlier feature: its first "
        "coordinate is the direction of the mean representation, so it is extreme in every photo, whatever the encoder "
        "has learned, and next to nothing of the mean is left for the other features. In the reference encoders the "
        "mean lies along many features: it holds 14 % or more of the energy outside of the three strongest.",
    ),
    "width_not_calibrated": ReasonRule(
        "not_applicable",
        "no threshold for this width",
        MEASURE_SHIFT,
        "Kurtosis is bounded by about the number of features; the thresholds hold for the widths of the reference "
        "sets.",
    ),
    "other_statistic_version": ReasonRule(
        "not_established",
        "the profile is for another statistic",
        "Use a profile made for this version of robustcheck, or measure again with this profile.",
        "A definition of a statistic changed between the profile and this version, or the evidence has sharper bounds "
        "than the profile asks for; the numbers are not comparable.",
    ),
    "batch_dependent": ReasonRule(
        "not_established",
        "an image's representation depends on its batch",
        "Export the model in eval mode. A dynamically quantised one (int8-dynamic): `--batch-size 1` gives the verdict "
        "for batches of one image; quantise statically (int8-qdq) for batches of any size.",
        "The representation of an image changed with the images next to it, as it does for a model exported in "
        "training mode (batch statistics), and for one whose quantisers take their scale over the whole batch. Its "
        "numbers are not a property of the model. Where every image ran alone, the scales saw no other image: the "
        "verdict then holds for batches of one image, and a note says so, unless something else mixes the batch.",
    ),
    "output_changed": ReasonRule(
        "not_established",
        "reading the tensor changed the model's output",
        "Report the model; try another version of ONNX Runtime.",
        "With the representation as an extra output the model's own output changed, so what was measured is not the "
        "model that will be deployed.",
    ),
    "runtime_differs": ReasonRule(
        "not_established",
        "the answer depends on the machine",
        "Decide which machine will run the model. For one with exact int8 sums (VNNI, ARM): `robustcheck MODEL "
        "--images PHOTOS --arithmetic exact`. For this one alone: `--arithmetic machine`.",
        "A few of the images ran once more on the CPU by reference arithmetic: int8 sums that do not saturate, or a "
        "graph without optimisation. Moved by what that changes, the numbers give another verdict. On x86 CPUs without "
        "VNNI, ONNX Runtime's int8 sums saturate; a GPU may compute in TF32, and another provider in bfloat16 or "
        "float16.",
    ),
    "unchecked": ReasonRule(
        "not_established",
        "a safety check could not be run",
        "Give at least two images, and a model whose output can be compared.",
        "Batch invariance, the model's own output or the content of the representation was not checked, so PASS cannot "
        "be given.",
    ),
} | COMPARISON_RULES
