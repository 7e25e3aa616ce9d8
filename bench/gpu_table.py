"""The table that tests/run_gpu ends with, made from its JSON: test counts, our rates beside PyTorch's, and the targets."""
import statistics

# Dense products in TFLOP/s by NVIDIA's data sheets: (bf16, tf32, fp32). The first name that the GPU's contains.
PEAKS = [("H100 PCIe", (756, 378, 51)), ("H100 NVL", (835, 418, 60)), ("H100", (989, 494, 67)), ("H200", (989, 494, 67)),
         ("B200", (2250, 1100, 75)), ("A100", (312, 156, 19.5))]
NOT_MEASURED = "not measured"


class Results:
    """Samples of all runs of a side, put together."""

    def __init__(self, document):
        self.document = document
        self.measurements = document.get("measurements", {})

    def all_runs(self, measurement, side):
        return [run for run in self.measurements.get(measurement, {}).get("runs", []) if run["side"] == side]

    def runs(self, measurement, side):
        return [run["result"] for run in self.all_runs(measurement, side) if run.get("result")]

    def why_missing(self, measurement, side):
        for dropped in self.document.get("dropped", []):
            if dropped["name"] == measurement:
                return dropped["why"]
        errors = [run["error"] for run in self.all_runs(measurement, side) if run.get("error")]
        return errors[-1] if errors else "it was not run"

    def rates(self, measurement, side):
        """name -> (median, bound or None) of what prints a list of measurements."""
        samples, bounds = {}, {}
        for result in self.runs(measurement, side):
            for m in result.get("measurements", []):
                samples.setdefault(m["name"], []).extend(m["samples"])
                if "bound" in m:
                    bounds.setdefault(m["name"], []).append(m["bound"])
        found = {}
        for name, values in samples.items():
            bound = statistics.median(bounds[name]) if name in bounds else None
            found[name] = (statistics.median(values), bound)
        return found

    def step(self, measurement, side):
        """One step's figures over all runs of a side, or None."""
        runs = self.runs(measurement, side)
        if not runs:
            return None
        seconds = statistics.median(s for r in runs for s in r["step_seconds"])
        last = runs[-1]
        micro_batches = last.get("micro_batches", 1)
        return {**last, "seconds": seconds, "tokens_per_s": last["B"] * last["T"] * micro_batches / seconds,
                "tflops": last["model_flops"] / seconds / 1e12,
                "peak_gpu_bytes": max((r["peak_gpu_bytes"] for r in runs if r.get("peak_gpu_bytes")), default=None)}


def precision_of(step):
    return "tf32" if step["precision"] == "fp32" and step.get("tf32") else step["precision"]


def peak_of(gpu, precision):
    """Data-sheet TFLOP/s, or None for a GPU that is not in the list."""
    for name, peaks in PEAKS:
        if name in gpu:
            return peaks[("bf16", "tf32", "fp32").index(precision)]
    return None


def cell(value, pattern, otherwise="-"):
    return otherwise if value is None else pattern.format(value)


def scaled(value, unit):
    return "-" if value is None else f"{value / unit:.1f}"


def median_of(rates, name):
    return rates[name][0] if name in rates else None


def ratio(a, b):
    return a / b if a is not None and b else None


def tests_section(document):
    lines = [f"{'tests':<12} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}  result"]
    for name, t in document.get("tests", {}).items():
        lines.append(f"{name:<12} {t['passed']:>7} {t['failed']:>7} {t['skipped']:>8} {t['seconds']:>8.1f}  {t['result']}")
        lines += [f"  {outcome}: {test}" for test, outcome in list(t["not_passed"].items())[:20]]
    return lines


def bandwidth_section(results):
    lines = [f"{'memory':<36} {'Strata, GB/s':>13} {'of copy':>8} {'PyTorch, GB/s':>14}"]
    theirs = results.rates("copy", "pytorch")
    for name, (median, _) in results.rates("copy", "strata").items():
        lines.append(f"{name:<36} {median / 1e9:>13.1f} {'':>8} {scaled(median_of(theirs, name), 1e9):>14}")
    for measurement in results.measurements:
        if not measurement.startswith(("adam ", "kernels ")):
            continue
        for name, (median, bound) in results.rates(measurement, "strata").items():
            if bound is None:
                continue
            label = measurement if measurement.startswith("adam ") else f"{name} ({measurement.removeprefix('kernels ')})"
            lines.append(f"{label:<36} {median / 1e9:>13.1f} {median / bound:>8.2f} {'-':>14}")
    return lines


def products_section(results):
    lines = [f"{'products':<44} {'Strata, TFLOP/s':>16} {'PyTorch, TFLOP/s':>17} {'ratio':>6}"]
    for measurement in results.measurements:
        if not measurement.startswith("gemm "):
            continue
        ours, theirs = results.rates(measurement, "strata"), results.rates(measurement, "pytorch")
        for name in ours or theirs:
            a, b = median_of(ours, name), median_of(theirs, name)
            label = f"{measurement.removeprefix('gemm ')} {name}"
            lines.append(f"{label:<44} {scaled(a, 1e12):>16} {scaled(b, 1e12):>17} {cell(ratio(a, b), '{:.2f}'):>6}")
    return lines


def attention_section(results):
    lines = [f"{'attention, B=4 T=4096 N=16 H=128 bf16':<40} {'Strata':>8} {'cuDNN':>8} {'flash':>8}  TFLOP/s; PyTorch's two"]
    ours, theirs = results.rates("attention bf16", "strata"), results.rates("attention bf16", "pytorch")
    for what in ("forward", "backward", "forward and backward"):
        values = [median_of(ours, what), median_of(theirs, f"cuDNN, {what}"), median_of(theirs, f"flash, {what}")]
        lines.append(f"{what:<40}" + "".join(f" {scaled(v, 1e12):>8}" for v in values))
    return lines


def compiled_as(step):
    how = step.get("compiled", "none")
    return {"none": "eager", "full": "compiled", "blocks": "compiled by block"}.get(how, "eager, cannot compile")


def steps_section(results, gpu):
    lines = [f"{'training steps':<28} {'':<28} {'ms':>9} {'tokens/s':>10} {'TFLOP/s':>8} {'MFU':>6} {'GPU GiB':>8} {'host GiB':>9}"]
    for measurement in results.measurements:
        if not measurement.startswith("step "):
            continue
        for side in dict.fromkeys(run["side"] for run in results.measurements[measurement]["runs"]):
            s = results.step(measurement, side)
            if s is None:
                lines.append(f"{measurement.removeprefix('step '):<28} {side:<28} {NOT_MEASURED}: {results.why_missing(measurement, side)}")
                continue
            lines.append(step_line(s, side, gpu))
    return lines


def step_line(s, side, gpu):
    homes = {"none": "GPU", "cpu": "CPU", "nvme": "NVMe"}
    who = {"strata": lambda: f"Strata, state on {homes[s['optimizer']]}", "pytorch": lambda: f"PyTorch, {compiled_as(s)}",
           "deepspeed": lambda: "DeepSpeed ZeRO-Offload"}[side]()
    label = f"{s['model']} {precision_of(s)} {s['B']}x{s['T']}" + (f", {s['layers']} blocks" if s.get("fewer_layers") else "")
    label += ", recomputed" if s.get("recompute") else ""
    memory = [cell(ratio(s.get(key), 2**30), "{:.2f}") for key in ("peak_gpu_bytes", "peak_cpu_bytes")]
    utilisation = cell(ratio(s["tflops"], peak_of(gpu, precision_of(s))), "{:.3f}")
    return (f"{label:<28} {who:<28} {1e3 * s['seconds']:>9.1f} {s['tokens_per_s']:>10.0f} {s['tflops']:>8.1f}"
            f" {utilisation:>6} {memory[0]:>8} {memory[1]:>9}")


def target(name, wanted, value, at_least, missing=""):
    found = {"name": name, "target": wanted, "value": value, "at_most": not at_least}
    if value is None:
        return {**found, "state": NOT_MEASURED, "why": missing}
    return {**found, "state": "met" if (value >= wanted if at_least else value <= wanted) else "missed"}


def targets(document):
    """Every target with its value and whether it is met, missed or not measured (and why)."""
    results, found = Results(document), []
    for precision in ("fp32", "bf16"):
        rate = results.rates(f"adam {precision}", "strata").get("update, traffic")
        found.append(target(f"AdamW {precision}: bytes/s over copy bandwidth", 0.85, rate and ratio(rate[0], rate[1]), True,
                            results.why_missing(f"adam {precision}", "strata")))
    what = "forward and backward"
    ours = median_of(results.rates("attention bf16", "strata"), what)
    theirs = median_of(results.rates("attention bf16", "pytorch"), f"cuDNN, {what}")
    found.append(target("attention T=4096 H=128, forward and backward, over cuDNN's", 0.9, ratio(ours, theirs), True,
                        results.why_missing("attention bf16", "strata" if ours is None else "pytorch")))
    for measurement in ("step gpt2-124m bf16", "step gpt2-1.6b bf16", "step gpt2-124m tf32", "step gpt2-124m fp32"):
        ours, theirs = results.step(measurement, "strata"), results.step(measurement, "pytorch")
        value = ratio(ours["tokens_per_s"], theirs["tokens_per_s"]) if ours and theirs else None
        label = f"{measurement.removeprefix('step ')}: tokens/s over PyTorch" + (f" ({compiled_as(theirs)})" if theirs else "")
        found.append(target(label, 1.1, value, True, results.why_missing(measurement, "pytorch" if ours else "strata")))
    step = results.step("step llama-7b", "strata")
    busiest = (step or {}).get("largest_resource")
    value = ratio(step["seconds"], step["busy_seconds"][busiest]) if busiest else None
    missing = results.why_missing("step llama-7b", "strata") if step is None else "no resource counted its busy seconds"
    if value is not None and value > 1.15 and not step["busy_seconds"].get("compute"):
        # What the GPU's share is nobody counted: the ratio is at most this.
        value, missing = None, f"at most {value:.2f} times {busiest}; the GPU's busy seconds were not counted"
    label = "llama-7b" + (f" of {step['layers']} blocks" if step and step.get("fewer_layers") else "")
    name = label
    label += ": step over its largest resource" + (f" ({busiest})" if busiest else "")
    found.append(target(label, 1.15, value, False, missing))
    other = "step llama-7b ZeRO-Offload"
    theirs = results.step(other, "deepspeed")
    value = ratio(step["seconds"], theirs["seconds"]) if step and theirs else None
    missing = results.why_missing(other, "deepspeed") if step else results.why_missing("step llama-7b", "strata")
    if value is not None and step.get("layers") != theirs.get("layers"):
        value, missing = None, f"Strata ran {step.get('layers')} blocks, DeepSpeed {theirs.get('layers')}"
    found.append(target(f"{name}: step over DeepSpeed ZeRO-Offload's", 0.4, value, False, missing))
    return found


def targets_section(found):
    lines = [f"{'target':<72} {'wanted':>8} {'measured':>9}  state"]
    for t in found:
        sign = "<=" if t.get("at_most") else ">="
        why = f": {t['why']}" if t.get("why") else ""
        lines.append(f"{t['name']:<72} {sign + ' ' + format(t['target'], '.2f'):>8} {cell(t['value'], '{:.2f}'):>9}  {t['state']}{why}")
    return lines


def table(document):
    """The lines that are printed."""
    results, gpu = Results(document), document.get("gpu", "")
    torch = document.get("pytorch", {})
    lines = [f"{gpu}, driver {document.get('driver', 'unknown')}; {document.get('strata', 'strata')}",
             *(f"{name}: {found['version']}" if "version" in found
               else f"{name}: {NOT_MEASURED}: {found.get('missing', 'it was not looked for')}"
               for name, found in (("PyTorch", torch), ("DeepSpeed", document.get("deepspeed", {}))))]
    sections = [tests_section(document), bandwidth_section(results), products_section(results), attention_section(results),
                steps_section(results, gpu), targets_section(targets(document))]
    for section in sections:
        lines += ["", *section]
    dropped = document.get("dropped", [])
    if dropped:
        lines += ["", *(f"left out: {d['name']}: {d['why']}" for d in dropped)]
    peak = peak_of(gpu, "bf16")
    lines += ["", f"MFU: of the data sheet's dense products (bf16 {peak} TFLOP/s)" if peak else "MFU: this GPU's data sheet is not known here"]
    return lines
