"""States many times larger than the tiers that hold them: what the process really takes. Mutations that must fail: keep a unit's
gradient until the next step; give every unit a home in the gpu tier."""
import json
import os
import subprocess

from harness import STRATA, EndToEnd, environment, run

MIB = 1 << 20
# 105 M parameters: 16 bytes of state each, 1.6 GB.
CONFIG = """
run: {{folder: {folder}/run}}
model: {{type: llama, vocab_size: 4096, hidden_size: 768, num_layers: 14, num_heads: 12, ffn_size: 2048, tie_embeddings: false}}
data: {{train: [{folder}/text.txt], format: bytes}}
training: {{steps: 3, seq_length: 64, micro_batch_size: 1, global_batch_size: 2, recompute: full}}
precision: {{compute: bf16, gradients: bf16}}
offload: {{optimizer: {{device: nvme, record_size: 1Mi}}, param: {{device: cpu}}, gradient: {{device: cpu}}, micro_batch_order: vertical}}
memory: {{gpu: 256MiB, cpu: 512MiB}}
checkpoint: {{save_final: false}}
logging: {{progress: "off"}}
"""


class Memory(EndToEnd):
    def test_states_of_six_times_the_budgets_train_within_them(self):
        config = f"{self.folder}/large.yaml"
        with open(config, "w") as f:
            f.write(CONFIG.format(folder=self.folder))
        plan = json.loads(run("plan", config, "--json", check=0).stdout)
        process = subprocess.Popen([STRATA, "train", config], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.stdout.close()
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0, output)
        self.assertGreater(16 * plan["parameters"], 1.6e9)
        with open(f"{self.folder}/run/metrics.jsonl") as f:
            steps = [json.loads(line) for line in f]
        self.assertLess(steps[-1]["loss"], steps[0]["loss"])
        for step in steps:
            self.assertLessEqual(step["peak_bytes"]["gpu"], plan["gpu"]["needed"])
            self.assertLessEqual(step["peak_bytes"]["cpu"], plan["cpu"]["needed"])
        planned = plan["gpu"]["needed"] + plan["cpu"]["needed"]
        self.assertLess(planned, 768 * MIB)
        resident = usage.ru_maxrss * 1024
        self.assertLess(resident - planned, 200 * MIB, f"resident {resident / MIB:.0f} MiB, planned {planned / MIB:.0f} MiB")
