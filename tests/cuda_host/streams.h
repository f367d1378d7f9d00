// Streams of the stand-in: one for each thread of the host, as Candle uses them, and the old default stream.
//
// Work runs as late as a device may run it: when somebody waits for it. So who forgets to wait reads what was there
// before, in every run.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace streams {

// What a thread has asked of its stream; `Counts` of src/kernel/cuda/counts.rs, in order.
enum Count { LAUNCHES, COPIES_IN, BYTES_IN, COPIES_OUT, BYTES_OUT, BYTES_SET, WAITS, LONGEST_CHAIN, N_COUNTS };

// Copies of up to this many bytes from memory of the host that is not page-locked return at once; larger ones may wait.
const std::size_t STAGED_BYTES = 64 << 10;

using Task = std::function<void()>;

struct Stream {
    std::mutex mutex;
    std::deque<Task> tasks;
    std::uint64_t n_submitted = 0, n_done = 0;
    std::uint64_t counts[N_COUNTS] = {};

    void submit(Task task) {
        const std::lock_guard<std::mutex> lock(mutex);
        tasks.push_back(std::move(task));
        n_submitted++;
    }

    void run() {
        const std::lock_guard<std::mutex> lock(mutex);
        for (; !tasks.empty(); tasks.pop_front(), n_done++) tasks.front()();
    }

    bool has_done(std::uint64_t n) {
        const std::lock_guard<std::mutex> lock(mutex);
        return n_done >= n;
    }
};

inline std::mutex all_mutex;
inline std::vector<std::shared_ptr<Stream>> all;

// The stream of the calling thread. What it has not run outlives the thread.
inline std::shared_ptr<Stream> own() {
    thread_local std::shared_ptr<Stream> stream;
    if (!stream) {
        stream = std::make_shared<Stream>();
        const std::lock_guard<std::mutex> lock(all_mutex);
        all.push_back(stream);
    }
    return stream;
}

inline void count(Count what, std::uint64_t n = 1) { own()->counts[what] += n; }

inline void run_all() {
    std::vector<std::shared_ptr<Stream>> each;
    {
        const std::lock_guard<std::mutex> lock(all_mutex);
        each = all;
    }
    for (const auto &stream : each) stream->run();
}

inline bool is_own(const void *handle) { return reinterpret_cast<std::uintptr_t>(handle) == 2; }

// The old default stream waits for all others.
inline void submit(const void *handle, Task task) {
    if (is_own(handle)) return own()->submit(std::move(task));
    run_all();
    task();
}

inline void wait_for(const void *handle) {
    count(WAITS);
    is_own(handle) ? own()->run() : run_all();
}

inline void wait_for_all() {
    count(WAITS);
    run_all();
}

// A point in a stream.
struct Event {
    std::shared_ptr<Stream> stream;
    std::uint64_t n = 0;

    void record(const void *handle) {
        stream = is_own(handle) ? own() : nullptr;
        if (stream) {
            const std::lock_guard<std::mutex> lock(stream->mutex);
            n = stream->n_submitted;
        }
    }

    bool is_complete() const { return !stream || stream->has_done(n); }

    void run() const {
        if (stream) stream->run();
    }
};

} // namespace streams
