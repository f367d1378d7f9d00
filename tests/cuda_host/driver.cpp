// A CUDA driver whose device is the CPU and whose device memory is the heap. It has what Candle needs to open a device,
// to copy, and to launch the kernels that the stand-in nvcc has built. Every other function returns
// CUDA_ERROR_NOT_SUPPORTED.
//
// It is stricter than a real one. Copies must lie inside one live allocation, and so must each load and store of a
// kernel, at a multiple of its size. It refuses a launch that any device from compute capability 7.5 on would refuse.
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "streams.h"

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX_VERSION = 222,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801,
};

// Attributes that Candle asks for, by their numbers in the driver's header.
enum Attribute { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, MEMORY_POOLS_SUPPORTED = 115 };
enum PoolAttribute { RELEASE_THRESHOLD = 4 };

struct Dim3 {
    unsigned x, y, z;
};

// `Kernel` of shim.h.
struct Kernel {
    // Copies the arguments of a launch, and returns what runs all of its threads. That returns the longest chain of
    // dependent steps in one of them.
    std::function<std::uint64_t()> *(*prepare)(Dim3 grid, Dim3 block, void **args);
    unsigned max_threads;
};

// Live allocations by address: length in bytes.
std::mutex allocations_mutex;
std::map<std::uintptr_t, std::size_t> allocations;
// Page-locked memory of the host.
std::map<std::uintptr_t, std::size_t> pinned;
std::atomic<unsigned> n_releases = 0;

int context;
std::uint64_t release_threshold = 0;
// The largest allocation that the calling thread is granted.
thread_local std::uint64_t most_bytes = ~std::uint64_t(0);
thread_local void *current_context = nullptr;
thread_local int is_capturing = 0;

int allocate(std::uint64_t *pointer, std::size_t n_bytes) {
    if (n_bytes == 0) return *pointer = 0, SUCCESS;
    void *memory = nullptr;
    if (n_bytes > most_bytes || posix_memalign(&memory, 256, n_bytes)) return OUT_OF_MEMORY;
    std::memset(memory, 0xcd, n_bytes); // shows what a kernel leaves unwritten
    const std::lock_guard<std::mutex> lock(allocations_mutex);
    allocations[reinterpret_cast<std::uintptr_t>(memory)] = n_bytes;
    *pointer = reinterpret_cast<std::uint64_t>(memory);
    return SUCCESS;
}

int release(std::uint64_t pointer) {
    if (pointer == 0) return SUCCESS;
    const std::lock_guard<std::mutex> lock(allocations_mutex);
    if (!allocations.erase(pointer)) return INVALID_VALUE;
    n_releases++;
    std::free(reinterpret_cast<void *>(pointer));
    return SUCCESS;
}

struct Range {
    std::uintptr_t start = 0, end = 0;

    bool holds(std::uint64_t pointer, std::size_t n_bytes) const {
        return pointer >= start && pointer <= end && n_bytes <= end - pointer;
    }
};

// Returns the range that begins last before an address, or an empty one.
Range range_of(const std::map<std::uintptr_t, std::size_t> &ranges, std::uint64_t pointer) {
    const std::lock_guard<std::mutex> lock(allocations_mutex);
    auto after = ranges.upper_bound(pointer);
    if (after == ranges.begin()) return {};
    const auto &[start, length] = *--after;
    return {start, start + length};
}

bool inside_one(const std::map<std::uintptr_t, std::size_t> &ranges, std::uint64_t pointer, std::size_t n_bytes) {
    return n_bytes == 0 || range_of(ranges, pointer).holds(pointer, n_bytes);
}

bool inside_one_allocation(std::uint64_t pointer, std::size_t n_bytes) {
    return inside_one(allocations, pointer, n_bytes);
}

// Work that was accepted and now meets freed memory cannot be refused any more.
void *still_there(std::uint64_t pointer, std::size_t n_bytes) {
    if (inside_one_allocation(pointer, n_bytes)) return reinterpret_cast<void *>(pointer);
    std::fprintf(stderr, "stand-in driver: memory was freed before the stream was done with it\n");
    std::abort();
}

// The frame below which the running kernel has its own variables. Zero: none is running.
thread_local std::uintptr_t launch_frame = 0;
// Allocations that it met last, until one is released.
thread_local std::array<Range, 8> recent;
thread_local unsigned next_recent = 0, releases_seen = 0;

// Ends the program unless a kernel may do this. Host memory is none of its business, and the device has no access that
// is not aligned.
void check(const char *what, std::uintptr_t pointer, std::size_t n_bytes, std::size_t alignment) {
    if (launch_frame == 0) return;
    const bool is_own = pointer >= reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)) && pointer < launch_frame;
    if (is_own) return;
    if (releases_seen != n_releases.load(std::memory_order_relaxed)) recent = {}, releases_seen = n_releases;
    const auto is_inside = [&](const Range &range) { return range.holds(pointer, n_bytes); };
    if (std::none_of(recent.begin(), recent.end(), is_inside)) {
        Range &oldest = recent[next_recent++ % recent.size()];
        oldest = range_of(allocations, pointer);
        if (!is_inside(oldest)) {
            std::fprintf(stderr, "stand-in driver: a kernel %s %zu bytes at %#zx, which is not device memory\n", what, n_bytes,
                         pointer);
            std::abort();
        }
    }
    if (pointer % alignment) {
        std::fprintf(stderr, "stand-in driver: a kernel %s %zu bytes at %#zx, which is not aligned\n", what, n_bytes,
                     pointer);
        std::abort();
    }
}

bool fits_a_device(Dim3 grid, Dim3 block, unsigned max_threads, unsigned shared_bytes) {
    const bool none_empty = grid.x && grid.y && grid.z && block.x && block.y && block.z;
    const bool grid_fits = grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
    const bool block_fits = block.x <= 1024 && block.y <= 1024 && block.z <= 64 &&
                            std::uint64_t(block.x) * block.y * block.z <= max_threads;
    return none_empty && grid_fits && block_fits && shared_bytes <= 48 << 10;
}

// The version of CUDA that the driver supports, 12.8 as 12080. CUDA_HOST_DRIVER=12.2 stands for an older driver.
int cuda_version() {
    int major = 12, minor = 8;
    if (const char *version = std::getenv("CUDA_HOST_DRIVER")) std::sscanf(version, "%d.%d", &major, &minor);
    return major * 1000 + minor * 10;
}

// CUDA_HOST_POOLS=0 stands for a device without a memory pool.
bool has_pool() {
    const char *n_pools = std::getenv("CUDA_HOST_POOLS");
    return !n_pools || std::strcmp(n_pools, "0") != 0;
}

// A driver for CUDA 12.x loads PTX up to 8.x, one for 13.x up to 9.x.
bool loads_ptx_of(const std::string &text) {
    int major = 0, minor = 0;
    const auto at = text.find("\n.version ");
    if (at == std::string::npos || std::sscanf(text.c_str() + at, " .version %d.%d", &major, &minor) != 2) return false;
    return (major + 4) * 1000 + minor * 10 <= cuda_version();
}

} // namespace

extern "C" {

// Device and context.
// CUDA_HOST_DEVICES=0 stands for a machine with a driver and no device.
int cuInit(unsigned) {
    const char *n_devices = std::getenv("CUDA_HOST_DEVICES");
    return n_devices && std::strcmp(n_devices, "0") == 0 ? NO_DEVICE : SUCCESS;
}
int cuDriverGetVersion(int *version) { return *version = cuda_version(), SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return ordinal ? INVALID_DEVICE : (*device = 0, SUCCESS); }
int cuDeviceGetName(char *name, int length, int) {
    std::snprintf(name, length, "a stand-in for a GPU, on the CPU");
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case CAPABILITY_MAJOR: *value = 8; break;
    case CAPABILITY_MINOR: *value = 0; break;
    case MEMORY_POOLS_SUPPORTED: *value = has_pool(); break;
    default: *value = 1;
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **out, int) { return *out = &context, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void *wanted) { return current_context = wanted, SUCCESS; }
int cuCtxGetCurrent(void **out) { return *out = current_context, SUCCESS; }
int cuCtxSynchronize() { return streams::wait_for_all(), SUCCESS; }

// Streams and events.
// A stream stays, like a module: whoever destroys it may have left work there.
int cuStreamCreate(void **stream, unsigned) { return *stream = streams::create(), SUCCESS; }
int cuStreamDestroy_v2(void *) { return SUCCESS; }
int cuStreamSynchronize(void *stream) { return streams::wait_for(stream), SUCCESS; }
int cuStreamWaitEvent(void *stream, void *event, unsigned) {
    const streams::Event at = *static_cast<streams::Event *>(event); // it may be recorded again
    return streams::submit(stream, [at] { at.run(); }), SUCCESS;
}
// A capture in which nothing is recorded.
int cuStreamBeginCapture_v2(void *, int) { return is_capturing = 1, SUCCESS; }
int cuStreamEndCapture(void *, void **graph) { return is_capturing = 0, *graph = nullptr, SUCCESS; }
int cuStreamIsCapturing(void *, int *status) { return *status = is_capturing, SUCCESS; }
int cuEventCreate(void **event, unsigned) { return *event = new streams::Event, SUCCESS; }
int cuEventDestroy_v2(void *event) { return delete static_cast<streams::Event *>(event), SUCCESS; }
int cuEventRecord(void *event, void *stream) { return static_cast<streams::Event *>(event)->record(stream), SUCCESS; }
int cuEventQuery(void *event) { return static_cast<streams::Event *>(event)->is_complete() ? SUCCESS : NOT_READY; }
int cuEventSynchronize(void *event) {
    if (cuEventQuery(event) == SUCCESS) return SUCCESS;
    streams::count(streams::WAITS);
    return static_cast<streams::Event *>(event)->run(), SUCCESS;
}

// Memory.
int cuMemAlloc_v2(std::uint64_t *pointer, std::size_t n_bytes) {
    return n_bytes ? allocate(pointer, n_bytes) : INVALID_VALUE;
}
int cuMemAllocAsync(std::uint64_t *pointer, std::size_t n_bytes, void *) {
    return has_pool() ? allocate(pointer, n_bytes) : NOT_SUPPORTED;
}
// The memory pool, of which only the release threshold is kept. It frees at once, whatever that says.
int cuDeviceGetMemPool(void **pool, int) { return *pool = &release_threshold, has_pool() ? SUCCESS : NOT_SUPPORTED; }
int cuMemPoolSetAttribute(void *pool, int attribute, void *value) {
    if (attribute != RELEASE_THRESHOLD) return INVALID_VALUE;
    return *static_cast<std::uint64_t *>(pool) = *static_cast<std::uint64_t *>(value), SUCCESS;
}
int cuMemPoolGetAttribute(void *pool, int attribute, void *value) {
    if (attribute != RELEASE_THRESHOLD) return INVALID_VALUE;
    return *static_cast<std::uint64_t *>(value) = *static_cast<std::uint64_t *>(pool), SUCCESS;
}
int cuMemFree_v2(std::uint64_t pointer) { return streams::wait_for_all(), release(pointer); }
int cuMemFreeAsync(std::uint64_t pointer, void *stream) {
    if (pointer && !inside_one_allocation(pointer, 1)) return INVALID_VALUE;
    return streams::submit(stream, [=] { release(pointer); }), SUCCESS;
}
int cuMemHostAlloc(void **pointer, std::size_t n_bytes, unsigned) {
    if (n_bytes == 0 || !(*pointer = std::malloc(n_bytes))) return n_bytes ? OUT_OF_MEMORY : INVALID_VALUE;
    streams::count(streams::BUFFERS);
    const std::lock_guard<std::mutex> lock(allocations_mutex);
    return pinned[reinterpret_cast<std::uintptr_t>(*pointer)] = n_bytes, SUCCESS;
}
int cuMemFreeHost(void *pointer) {
    const std::lock_guard<std::mutex> lock(allocations_mutex);
    if (!pinned.erase(reinterpret_cast<std::uintptr_t>(pointer))) return INVALID_VALUE;
    return std::free(pointer), SUCCESS;
}
int cuMemcpyHtoDAsync_v2(std::uint64_t to, const void *from, std::size_t n_bytes, void *stream) {
    if (!inside_one_allocation(to, n_bytes)) return INVALID_VALUE;
    streams::count(streams::COPIES_IN);
    streams::count(streams::BYTES_IN, n_bytes);
    if (inside_one(pinned, reinterpret_cast<std::uintptr_t>(from), n_bytes)) { // read when the stream comes to it
        return streams::submit(stream, [=] { std::memcpy(still_there(to, n_bytes), from, n_bytes); }), SUCCESS;
    }
    const auto bytes = static_cast<const unsigned char *>(from);
    const std::vector<unsigned char> copy(bytes, bytes + n_bytes);
    streams::submit(stream, [=] { std::memcpy(still_there(to, n_bytes), copy.data(), n_bytes); });
    if (n_bytes > streams::STAGED_BYTES) streams::wait_for(stream);
    return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, std::uint64_t from, std::size_t n_bytes, void *stream) {
    if (!inside_one_allocation(from, n_bytes)) return INVALID_VALUE;
    streams::count(streams::COPIES_OUT);
    streams::count(streams::BYTES_OUT, n_bytes);
    streams::submit(stream, [=] { std::memcpy(to, still_there(from, n_bytes), n_bytes); });
    return streams::wait_for(stream), SUCCESS;
}
int cuMemcpyDtoDAsync_v2(std::uint64_t to, std::uint64_t from, std::size_t n_bytes, void *stream) {
    if (!inside_one_allocation(to, n_bytes) || !inside_one_allocation(from, n_bytes)) return INVALID_VALUE;
    streams::submit(stream, [=] { std::memmove(still_there(to, n_bytes), still_there(from, n_bytes), n_bytes); });
    return SUCCESS;
}
int cuMemsetD8Async(std::uint64_t to, unsigned char value, std::size_t n_bytes, void *stream) {
    if (!inside_one_allocation(to, n_bytes)) return INVALID_VALUE;
    streams::count(streams::BYTES_SET, n_bytes);
    streams::submit(stream, [=] { std::memset(still_there(to, n_bytes), value, n_bytes); });
    return SUCCESS;
}

// Copies the counts of the calling thread, all of whose work is run first, and begins again at zero.
void cuda_host_take_counts(std::uint64_t *counts) {
    const auto stream = streams::own();
    stream->run();
    std::copy_n(stream->counts, streams::N_COUNTS, counts);
    std::fill_n(stream->counts, streams::N_COUNTS, 0);
}

// Refuses larger allocations to the calling thread from now on.
void cuda_host_refuse_above(std::uint64_t n_bytes) { most_bytes = n_bytes; }

// Modules: the "PTX" names a shared library, which stays loaded.
int cuModuleLoadData(void **module, const void *image) {
    const std::string text = static_cast<const char *>(image);
    const std::string key = "\n.library ";
    const auto at = text.find(key);
    if (at == std::string::npos) return INVALID_PTX;
    if (!loads_ptx_of(text)) return UNSUPPORTED_PTX_VERSION;
    const auto start = at + key.size();
    const std::string path = text.substr(start, text.find('\n', start) - start);
    *module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!*module) std::fprintf(stderr, "stand-in driver: %s\n", dlerror());
    return *module ? SUCCESS : INVALID_PTX;
}
int cuModuleUnload(void *) { return SUCCESS; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = dlsym(module, ("cuda_host_" + std::string(name)).c_str());
    return *function ? SUCCESS : NOT_FOUND;
}
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream, void **args, void **) {
    const Dim3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    const Kernel &kernel = *static_cast<const Kernel *>(function);
    if (!fits_a_device(grid, block, kernel.max_threads, shared_bytes)) return INVALID_VALUE;
    const std::shared_ptr<std::function<std::uint64_t()>> run(kernel.prepare(grid, block, args));
    streams::count(streams::LAUNCHES);
    auto &longest = streams::own()->counts[streams::LONGEST_CHAIN];
    streams::submit(stream, [run, &longest] { longest = std::max(longest, (*run)()); });
    return SUCCESS;
}

// What nccl.cpp reads and writes when a stream comes to it.
void *cuda_host_memory(std::uint64_t pointer, std::size_t n_bytes) { return still_there(pointer, n_bytes); }

// shim.h runs the threads of a launch between two calls: the first with its own frame, the second with none.
void cuda_host_check_from(void *frame) { launch_frame = reinterpret_cast<std::uintptr_t>(frame); }

// What g++ calls before each load and store of a kernel, see nvcc.
#define CUDA_HOST_ACCESS(BYTES)                                                                                       \
    void __asan_load##BYTES##_noabort(std::uintptr_t pointer) { check("reads", pointer, BYTES, BYTES); }              \
    void __asan_store##BYTES##_noabort(std::uintptr_t pointer) { check("writes", pointer, BYTES, BYTES); }
CUDA_HOST_ACCESS(1)
CUDA_HOST_ACCESS(2)
CUDA_HOST_ACCESS(4)
CUDA_HOST_ACCESS(8)
CUDA_HOST_ACCESS(16)
void __asan_loadN_noabort(std::uintptr_t pointer, std::size_t n_bytes) { check("reads", pointer, n_bytes, 1); }
void __asan_storeN_noabort(std::uintptr_t pointer, std::size_t n_bytes) { check("writes", pointer, n_bytes, 1); }
void __asan_handle_no_return() {}

// Errors.
int cuGetErrorName(int error, const char **name) {
    return *name = error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR", SUCCESS;
}
int cuGetErrorString(int error, const char **text) {
    thread_local char buffer[64];
    std::snprintf(buffer, sizeof buffer, "error %d of the stand-in driver", error);
    return *text = buffer, SUCCESS;
}
}
