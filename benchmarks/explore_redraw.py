"""How long each widget of simseg.explore takes to redraw.

    python benchmarks/explore_redraw.py
    python benchmarks/explore_redraw.py --study outputs/pets-small/study.yaml --dataset pets --data-root /path/to/data

Prints the median and the slowest of moves of each slider, in seconds; the first move after opening is left
out, since it loads models and libraries.
"""
import argparse
import statistics
import time

from simseg.explore import explore_data, explore_predictions, explore_study, explore_temperature, explore_views

parser = argparse.ArgumentParser(description="Redraw times of simseg.explore's widgets.")
parser.add_argument("--study", default="", help="a study file with evaluated models, for predictions and study")
parser.add_argument("--dataset", default="synthetic")
parser.add_argument("--data-root", default="")
args = parser.parse_args()


def moves(explorer, name: str, count: int = 20) -> list[float]:
    "Move one control to `count` places, one after another."
    control, times = explorer.controls[name], []
    places = control.options if hasattr(control, "options") else [control.min + (control.max - control.min) * i // count if isinstance(control.max, int) else control.min + (control.max - control.min) * i / count for i in range(count)]
    if type(control).__name__ == "FloatLogSlider": places = [control.base ** place for place in places]
    for place in [p[1] if isinstance(p, tuple) else p for p in places]:
        if place == control.value: continue
        start = time.perf_counter()
        control.value = place
        times.append(time.perf_counter() - start)
    return times[1:] or times


source = {"dataset": args.dataset, "data_root": args.data_root}
explorers = {"views": (explore_views(**source), ["jitter_strength", "min_scale", "image"]), "temperature": (explore_temperature(**source), ["temperature", "n"]),
             "data": (explore_data(**source), ["page", "label_ratio"])}
if args.study:
    explorers |= {"predictions": (explore_predictions(args.study, args.data_root), ["threshold", "rank"]), "study": (explore_study(args.study), ["ratio"])}
for title, (explorer, names) in explorers.items():
    for name in names:
        times = moves(explorer, name)
        if times: print(f"{title:12} {name:16} median {statistics.median(times):.3f} s, slowest {max(times):.3f} s, of {len(times)} moves")
