// Streams of the stand-in: one for each thread of the host, as Candle uses them, those that somebody creates, and the
// old default stream.
//
// Work runs as late as a device may run it: when somebody waits for it. So who forgets to wait reads what was there
// before, in every run.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace streams {

// What a thread has asked of its stream; `Counts` of src/kernel/cuda/counts.rs, in order.
enum Count { LAUNCHES, COPIES_IN, BYTES_IN, COPIES_OUT, BYTES_OUT, BYTES_SET, WAITS, LONGEST_CHAIN, BUFFERS, N_COUNTS };

// Copies of up to this many bytes from memory of the host that is not page-locked return at once; larger ones may wait.
const std::size_t STAGED_BYTES = 64 << 10;

using Task = std::function<void()>;

struct Stream {
    // Of the queue, and of whoever runs it: a task may wait for a long time, and more be submitted meanwhile.
    std::mutex mutex, running;
    std::deque<Task> tasks;
    std::uint64_t n_submitted = 0;
    std::atomic<std::uint64_t> n_done = 0;
    std::uint64_t counts[N_COUNTS] = {};

    void submit(Task task) {
        const std::lock_guard<std::mutex> lock(mutex);
        tasks.push_back(std::move(task));
        n_submitted++;
    }

    void run() { run_up_to(~std::uint64_t(0)); }

    void run_up_to(std::uint64_t n) {
        const std::lock_guard<std::mutex> alone(running);
        for (; n_done < n; n_done++) {
            Task task;
            {
                const std::lock_guard<std::mutex> lock(mutex);
                if (tasks.empty()) return;
                task = std::move(tasks.front());
                tasks.pop_front();
            }
            task();
        }
    }

    bool has_done(std::uint64_t n) const { return n_done >= n; }
};

inline std::mutex all_mutex;
inline std::vector<std::shared_ptr<Stream>> of_threads, created;

// The stream of the calling thread. What it has not run outlives the thread.
inline std::shared_ptr<Stream> own() {
    thread_local std::shared_ptr<Stream> stream;
    if (!stream) {
        stream = std::make_shared<Stream>();
        const std::lock_guard<std::mutex> lock(all_mutex);
        of_threads.push_back(stream);
    }
    return stream;
}

inline void count(Count what, std::uint64_t n = 1) { own()->counts[what] += n; }

inline void run_each(const std::vector<std::shared_ptr<Stream>> &streams) {
    std::vector<std::shared_ptr<Stream>> each;
    {
        const std::lock_guard<std::mutex> lock(all_mutex);
        each = streams;
    }
    for (const auto &stream : each) stream->run();
}

// Makes a stream that waits for no other. Its handle is its address.
inline void *create() {
    const std::lock_guard<std::mutex> lock(all_mutex);
    return created.emplace_back(std::make_shared<Stream>()).get();
}

// Returns the stream of a handle, or none for the old default stream.
inline std::shared_ptr<Stream> find(const void *handle) {
    if (reinterpret_cast<std::uintptr_t>(handle) == 2) return own();
    const std::lock_guard<std::mutex> lock(all_mutex);
    const auto is_it = [&](const auto &stream) { return stream.get() == handle; };
    const auto found = std::find_if(created.begin(), created.end(), is_it);
    return found == created.end() ? nullptr : *found;
}

// The old default stream waits for those of threads, and for no created ones.
inline void submit(const void *handle, Task task) {
    if (const auto stream = find(handle)) return stream->submit(std::move(task));
    run_each(of_threads);
    task();
}

inline void wait_for(const void *handle) {
    count(WAITS);
    if (const auto stream = find(handle)) return stream->run();
    run_each(of_threads);
}

inline void wait_for_all() {
    count(WAITS);
    run_each(of_threads);
    run_each(created);
}

// A point in a stream.
struct Event {
    std::shared_ptr<Stream> stream;
    std::uint64_t n = 0;

    void record(const void *handle) {
        stream = find(handle);
        if (stream) {
            const std::lock_guard<std::mutex> lock(stream->mutex);
            n = stream->n_submitted;
        }
    }

    bool is_complete() const { return !stream || stream->has_done(n); }

    void run() const {
        // What has run is asked for without a lock: a task may wait for the stream that waits for its own.
        if (!is_complete()) stream->run_up_to(n);
    }
};

} // namespace streams
