"""Write a checkpoint in a layout that others read: python convert.py --checkpoint RUN --layout timm --output FOLDER"""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Sequence

from checkpoint import locate
from models import MaskedAutoencoder, Model, create_model
from prediction_options import ConversionOptions
from preparation import read_preparation
from run.errors import UsageError, UserError, entry_point
from run.options import parse
from weights import load_weights, read_class_names, read_config, read_description, save_weights


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → model → files, with class names and preparation."""
    about = (__doc__ or "").split("\n")[0]
    options = parse(ConversionOptions, arguments, configs=None, script="convert.py", description=about)
    place = locate(options.checkpoint)
    if Path(options.output).resolve() in (place.resolve(), place.resolve().parent):
        raise UserError(f"--output {options.output} is the checkpoint itself: give another folder")
    model = create_model(**read_config(place))
    if options.encoder_only and not isinstance(model, MaskedAutoencoder):
        raise UsageError(f"--encoder_only has no effect here, {place} has no decoder: leave it out")
    print(load_weights(model, place), flush=True)
    save_weights(
        model,
        options.output,
        options.layout,
        class_names=read_class_names(place) or None,
        preparation=read_preparation(read_description(place), model.config.image_size[0]),
        encoder_only=options.encoder_only,
    )
    print(f"written to {options.output} ({options.layout} layout)", flush=True)
    facts = unsaid(model, options.encoder_only) if options.layout == "pth" else []
    if facts:
        print(f"model.pth has no place for this, so tell its readers: {' and '.join(facts)}", flush=True)


def unsaid(model: Model, encoder_only: bool) -> List[str]:
    """What readers of bare tensors take otherwise, this app's scripts among them, with the flags that tell these."""
    facts = ["GELU by tanh (--gelu_type tanh)"] if model.config.gelu == "tanh" else []
    if isinstance(model, MaskedAutoencoder) and model.config.norm_pix_loss and not encoder_only:
        facts.append("normalised pixels as target (--norm_pix_loss true)")
    return facts


if __name__ == "__main__":
    entry_point(main)
