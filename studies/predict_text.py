"""The words of studies/predict.py."""

from predict_facts import FALSE_PASS, MISSED

CRITERIA = (
    f"of the checkpoints that are not robust, more than {100 * FALSE_PASS:.0f} % PASS (lower bound)",
    f"of the robust ones, more than {100 * MISSED:.0f} % WARN (lower bound)",
    "the joint score of the robust ones isn't above that of the others (Mann–Whitney, p > 0.05)",
    "K of robust zero-shot encoders isn't above that of CLIP finetuned on ImageNet, both by `pooled` "
    "(Mann–Whitney, p > 0.05)",
)
IF_SO = (
    "PASS does not predict robustness",
    "robust encoders mostly don't show the sign",
    "the sign has nothing to do with robustness",
    "PASS detects how a model was pretrained, not how robust it is",
)
TEXT = """# Does PASS predict robustness?

Written by `python studies/predict.py` from the [reference table](../../docs/data.md), the [published
accuracies](../../docs/data.md#published-robustness) and the profile `{profile}`. ER is effective robustness:
accuracy on a shift beyond what models trained on ImageNet alone have at the same ImageNet accuracy; mean over V2,
Sketch, R and A, in percentage points. As in the [suite of the paper](../../docs/calibration.md), a checkpoint is
*robust* from {from_pp:+.0f} and *not robust* below {below_pp:+.0f}.

**Short answer.** PASS was fitted to zero-shot CLIP encoders, and {zero_shot_robust} published members of that class
that have {least_accuracy:.0f} % or more on ImageNet are robust. That more strength means more robustness within the
class was not shown. No encoder was measured before and after finetuning.

## What follows from what is published
Accuracies of {n_published:,} models of open_clip and timm with {least_accuracy:.0f} % or more on ImageNet
([sources](../../docs/data.md#published-robustness)). No vector and no verdict is behind this table. The bounds are
one-sided, 95 %, Clopper–Pearson, as if the models were independent, which relatives are not.

{classes}

- **All published members with {least_accuracy:.0f} % or more on ImageNet are robust**: the least robust has
  {zero_shot_least:+.1f} points. open_clip publishes {n_below} more below that accuracy, most of them outside the
  range of the baselines, and they are not counted. So PASS points to robustness only as far as it points to that
  class. Models that were finetuned on images with texts pass, too, and no ER of theirs is published.
- **No CLIP model finetuned on ImageNet is robust by this label**: the most robust has {finetuned_most:+.1f} points.
  Whether such a model still shows outlier features was not measured here; the paper found them only in its robust
  models.
- **{others_robust}** are the robust ones among all others.

## What was measured
{n_robust} robust checkpoints were measured, and {n_hits} of them pass. Of those that are not robust, only
{n_fragile} with a published ER were measured. {n_false} of these pass, but {n_one_sided} of them have one-sided
features and are turned away by that alone, so they show nothing about the rest of the rule. Every checkpoint that
passes was trained on images with their texts. So these data can't tell "PASS predicts robustness" from "PASS
detects contrastive training as CLIP's".

## Checkpoints with a published ER
{n_known} checkpoints, {n_sets} sets. A range is over a checkpoint's sets, each on other photos. Energies are the
smaller of the shares on either side, as the limits see them. The thresholds were fitted to these sets, so agreement
with the table is not evidence. Verdicts are by point estimates and by the statistics alone; a
[check](../../docs/statistics.md) needs bounds beyond the thresholds, and more.

{table}

\\* Its ImageNet accuracy is beyond those that the baselines were fitted on: no label.

## Verdict against ER
{verdicts}

- **Misses**: {misses}. Missed, too, if left out of the fit: {weak}.
- **False PASS**: {false_passes}, of {n_fragile} checkpoints.
- **Not known**: these pass, and no ER of theirs is among the published: {unknown}. {n_unknown_warn} more have none,
  and do not pass.
- **Not counted**: {lost}. {no_mean}: no published accuracy on one of the four shifts.

## Each statistic against ER
Spearman's rank correlation over checkpoints, each with the median of its sets (over sets, as `profiles show` gives
it, a checkpoint with five sets counts five times). 95 % intervals by Fisher's z with the variance of Bonett and
Wright (Psychometrika 2000), each by itself; with so few checkpoints they are approximate. Joint score: how far
above all thresholds.

{correlations}

- **Among zero-shot encoders {ranking} outlier features was shown to rank ER**: K has r = {k_told}. With
  {n_zero_shot} checkpoints only an r of {least:.2f} or more is told from none. A higher K is not a sign of a more
  robust model. The accuracy of these encoders on ImageNet ranks their ER: r = {accuracy_told}.{guards}
- **Over all kinds the association is mostly between groups**: every robust checkpoint here is a zero-shot encoder,
  and every one that is not robust is not. Which of the two a model is says as much about its label as any statistic
  can.
- The photos differ by checkpoint, and K with them: by a factor of {factor:.1f} for {widest}.

## What these data can't tell
- **Robust, or trained as CLIP?** Of {n_text} checkpoints trained on images with texts {n_text_pass} pass, of
  {n_other} others {n_other_pass}. Where ER is known, the kind of training alone gives every label. The joint score
  parts robust from not robust with an AUROC of {auroc:.2f}, but that is {n_robust} against {n_fragile}.
- **BiomedCLIP passes**, though it was trained on biomedical figures alone; we know of no published ER of it.
- **Contrastive training is not enough**: {text_warn} do not pass.
- **ER itself is in question**: Shi et al. (NeurIPS 2023, arXiv 2302.01381) find that zero-shot CLIP's ER shrinks
  when several in-distribution test sets are controlled for. What goes with ER need not go with accuracy where you
  deploy: [measure that](../../docs/shift.md) where you can.

## What would show it wrong
Fixed before any model of the paper's suite was measured. The thresholds are those of `{profile}`, not fitted anew,
and checkpoints that were measured for them don't count in the first three: that leaves {new_robust} robust ones and
{new_fragile} that are not. Labels are the suite's, so YFCC15M and CC12M encoders count as robust, as in the paper.
Bounds are one-sided, 95 %, Clopper–Pearson over checkpoints. Below {least_n} checkpoints on a side a criterion
stays open.

{criteria}

Today's counts decide nothing, since the thresholds were fitted to these sets. The last criterion matters most: it
is the paper's own contrast, within one kind of pretraining. It is taken on the pooled tensor, which both kinds
have, and against all {n_finetuned} finetuned models, whatever their ER, not backbone by backbone. The paper's CLIP
trained on ImageNet-Captions is not in the suite: open_clip publishes no weights of it. And even if all four hold,
that is an association over known checkpoints, not a cause.

## How to settle it
With a model hub, room for the weights ([how much](../../docs/calibration.md)) and a folder of varied
in-distribution photos:

```console
$ robustcheck calibrate --suite {suite} --images photos/ --plan
$ robustcheck calibrate --suite {suite} --images photos/ --out paper.json
$ robustcheck profiles show paper.json
$ python studies/predict.py paper.results.jsonl
```

The second measures {n_suite} models and fits thresholds of their own, the third shows these with their error rates,
the last prints what each criterion above says: refuted, holds or open. **This was never run**; only the plan was,
which needs no network. Until somebody does, read PASS as "shows the sign of a class whose published members with
{least_accuracy:.0f} % or more on ImageNet are robust", and no more."""
GUARDS = (
    " A guard of the sign, which measures no outlier feature, goes with ER by its own interval; by one that holds for "
    "all {n} rows together: {told}."
)
