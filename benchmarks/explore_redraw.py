"""How long does each widget of tools/explore take to redraw? The median and the slowest of moves of each slider, in
seconds; the first move after opening is left out, since it loads models and libraries.

    python benchmarks/explore_redraw.py
    python benchmarks/explore_redraw.py --study outputs/pets-small/study.yaml --dataset pets --data-root /path/to/data
"""
import statistics
import time

import ipywidgets as widgets
from common import finish, parse

from simseg.tools.explore import explore_data, explore_neighbours, explore_predictions, explore_views

MOVES = 20  # of a slider, from its least value up


def places_of(control) -> list:
    "Values to set a control to, one after another."
    if hasattr(control, "options"):
        return [option[1] if isinstance(option, tuple) else option for option in control.options]
    steps = [control.min + (control.max - control.min) * i / MOVES for i in range(MOVES)]
    if isinstance(control, widgets.IntSlider): return [int(step) for step in steps]
    if isinstance(control, widgets.FloatLogSlider): return [control.base**step for step in steps]
    return steps


def redraw_seconds(control) -> list[float]:
    "Seconds of each move."
    times = []
    for place in places_of(control):
        if place == control.value: continue
        start = time.perf_counter()
        control.value = place
        times.append(time.perf_counter() - start)
    return times[1:] or times


def opened(args) -> dict:  # name → the explorer, and which of its controls are moved
    "Every widget that there are files for."
    source = {"dataset": args.dataset, "data_root": args.data_root}
    found = {
        "views": (explore_views(**source), ["jitter_strength", "min_scale", "image"]),
        "data": (explore_data(**source), ["page", "label_ratio"]),
    }
    if not args.study: return found
    found["neighbours"] = (explore_neighbours(args.study), ["place"])
    found["predictions"] = (explore_predictions(args.study), ["threshold", "rank"])
    return found


if __name__ == "__main__":
    args = parse(__doc__, study="", dataset="synthetic", data_root="")
    rows = []
    for widget, (explorer, names) in opened(args).items():
        for name in names:
            times = redraw_seconds(explorer.controls[name])
            if not times: continue
            row = {"widget": widget, "slider": name, "moves": len(times)}
            rows.append({**row, "seconds": f"{statistics.median(times):.3f}", "slowest": f"{max(times):.3f}"})
    finish("explore_redraw", rows, args)
