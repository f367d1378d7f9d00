"""Answers each JSON line of standard input with one, by the cases that stand before this text."""
def answer(request, state):
    what = request.pop("do")
    if what == "version":
        return VERSION
    if what == "start":
        state.clear()
        state["all"] = Decode(**request) if request["case"] == "decode" else Bench(**request)
        state["all"].run()
        samples = state["all"].samples()
        if request["case"] == "step_rows":  # what ours computes is SparseAdam's
            state["sparse"] = Bench(**request, sparse=True)
            state["sparse"].run()
            samples = state["sparse"].samples()
        return samples
    if what == "time":
        variant = request["variant"]
        torch.set_num_threads(1 if variant == "torch_1" else N_THREADS)
        bench = state["sparse" if variant == "torch_sparse" else "all"]
        if request["n"] > 1:
            bench.run()  # not counted, as for the others
        if bench.case != "backward":
            start = time.perf_counter()
            for _ in range(request["n"]):
                bench.run()
            return time.perf_counter() - start
        return sum(bench.run() for _ in range(request["n"]))
    if what == "peak":
        torch.zeros(100).add(1).sum()
        before = memory("VmRSS")
        bench = Bench(**request)
        bench.run()
        bench.run()
        return memory("VmHWM") - before


state = {}
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line), state)))
