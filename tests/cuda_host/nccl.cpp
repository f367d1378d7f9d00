// NCCL whose ranks are threads of one process that share the stand-in's device. It has what `ranks::Nccl` calls: an id,
// ranks that find each other by it, grouped sends and receives, abort. Every other function returns ncclInternalError.
//
// A group becomes one task of its stream, which first leaves what is sent and then waits for what is received. A thread of
// its own runs it, as a device works while its host goes on.
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <thread>

#include "streams.h"

extern "C" void *cuda_host_memory(std::uint64_t pointer, std::size_t n_bytes);

namespace {

enum Result { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5 };

const int UINT8 = 1;

struct UniqueId {
    char bytes[128];
};

struct Job {
    std::mutex mutex;
    std::condition_variable changed;
    int size = 0, n_joined = 0;
    bool is_aborted = false;
    // What lies between two ranks, in the order in which it was sent.
    std::map<std::pair<int, int>, std::deque<std::vector<unsigned char>>> between;
};

struct Comm {
    std::shared_ptr<Job> job;
    int rank;
};

struct Move {
    std::shared_ptr<Job> job;
    bool is_send;
    int from, to;
    std::uint64_t pointer;
    std::size_t n_bytes;
    std::shared_ptr<streams::Stream> stream;

    void run() const {
        void *memory = cuda_host_memory(pointer, n_bytes);
        std::unique_lock<std::mutex> lock(job->mutex);
        auto &queue = job->between[{from, to}];
        if (is_send) {
            const auto bytes = static_cast<unsigned char *>(memory);
            queue.emplace_back(bytes, bytes + n_bytes);
            return job->changed.notify_all();
        }
        job->changed.wait(lock, [&] { return job->is_aborted || !queue.empty(); });
        if (queue.empty()) return;
        if (queue.front().size() != n_bytes) std::abort(); // sends and receives must agree
        std::memcpy(memory, queue.front().data(), n_bytes);
        queue.pop_front();
    }
};

std::mutex jobs_mutex;
std::map<std::string, std::shared_ptr<Job>> jobs;
thread_local int depth = 0;
thread_local std::vector<Move> group;

int add(bool is_send, std::uint64_t pointer, std::size_t n, int type, int peer, Comm *comm, void *stream) {
    if (type != UINT8 || peer < 0 || peer >= comm->job->size) return INVALID_ARGUMENT;
    const auto found = streams::find(stream);
    if (depth == 0 || !found) return INVALID_USAGE; // what this stand-in needs, not NCCL
    const int from = is_send ? comm->rank : peer, to = is_send ? peer : comm->rank;
    group.push_back({comm->job, is_send, from, to, pointer, n, found});
    return SUCCESS;
}

} // namespace

extern "C" {

int ncclGetUniqueId(UniqueId *id) {
    static std::atomic<unsigned> n_ids = 0;
    std::memset(id, 0xee, sizeof *id);
    const unsigned number = n_ids++;
    return std::memcpy(id, &number, sizeof number), SUCCESS;
}

int ncclCommInitRank(Comm **comm, int size, UniqueId id, int rank) {
    if (rank < 0 || rank >= size) return INVALID_ARGUMENT;
    std::shared_ptr<Job> job;
    {
        const std::lock_guard<std::mutex> lock(jobs_mutex);
        auto &found = jobs[std::string(id.bytes, sizeof id.bytes)];
        if (!found) found = std::make_shared<Job>();
        job = found;
    }
    std::unique_lock<std::mutex> lock(job->mutex);
    job->size = size;
    job->n_joined++;
    job->changed.notify_all();
    const auto all_joined = [&] { return job->n_joined == size; };
    if (!job->changed.wait_for(lock, std::chrono::seconds(10), all_joined)) return SYSTEM_ERROR;
    return *comm = new Comm{job, rank}, SUCCESS;
}

int ncclGroupStart() { return depth++, SUCCESS; }

int ncclGroupEnd() {
    if (depth == 0) return INVALID_USAGE;
    if (--depth > 0 || group.empty()) return SUCCESS;
    std::stable_partition(group.begin(), group.end(), [](const Move &move) { return move.is_send; });
    const auto stream = group.front().stream;
    stream->submit([moves = std::move(group)] {
        for (const Move &move : moves) move.run();
    });
    group.clear();
    std::thread([stream] { stream->run(); }).detach();
    return SUCCESS;
}

int ncclSend(const void *pointer, std::size_t n, int type, int peer, Comm *comm, void *stream) {
    return add(true, reinterpret_cast<std::uint64_t>(pointer), n, type, peer, comm, stream);
}

int ncclRecv(void *pointer, std::size_t n, int type, int peer, Comm *comm, void *stream) {
    return add(false, reinterpret_cast<std::uint64_t>(pointer), n, type, peer, comm, stream);
}

// Nobody waits for more.
int ncclCommAbort(Comm *comm) {
    {
        const std::lock_guard<std::mutex> lock(comm->job->mutex);
        comm->job->is_aborted = true;
        comm->job->changed.notify_all();
    }
    return delete comm, SUCCESS;
}
}
