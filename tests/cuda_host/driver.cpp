// A CUDA driver whose device is the CPU and whose device memory is the heap. It has what Candle needs to open a device,
// to copy, and to launch the kernels that the stand-in nvcc has built. Every other function returns
// CUDA_ERROR_NOT_SUPPORTED.
//
// It is stricter than a real one. Copies must lie inside one live allocation. It refuses a launch that any device from
// compute capability 7.5 on would refuse.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

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
};

// Attributes that Candle asks for, by their numbers in the driver's header.
enum Attribute { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };

struct Dim3 {
    unsigned x, y, z;
};

using Launch = void (*)(Dim3 grid, Dim3 block, void **args);

// Live allocations by address: length in bytes.
std::mutex allocations_mutex;
std::map<std::uintptr_t, std::size_t> allocations;

int context;
thread_local void *current_context = nullptr;

int allocate(std::uint64_t *pointer, std::size_t n_bytes) {
    if (n_bytes == 0) return *pointer = 0, SUCCESS;
    void *memory = nullptr;
    if (posix_memalign(&memory, 256, n_bytes)) return OUT_OF_MEMORY;
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
    std::free(reinterpret_cast<void *>(pointer));
    return SUCCESS;
}

bool inside_one_allocation(std::uint64_t pointer, std::size_t n_bytes) {
    if (n_bytes == 0) return true;
    const std::lock_guard<std::mutex> lock(allocations_mutex);
    auto after = allocations.upper_bound(pointer);
    if (after == allocations.begin()) return false;
    const auto &[start, length] = *--after;
    return n_bytes <= length && pointer - start <= length - n_bytes;
}

bool fits_a_device(Dim3 grid, Dim3 block, unsigned shared_bytes) {
    const bool none_empty = grid.x && grid.y && grid.z && block.x && block.y && block.z;
    const bool grid_fits = grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
    const bool block_fits = block.x <= 1024 && block.y <= 1024 && block.z <= 64 &&
                            std::uint64_t(block.x) * block.y * block.z <= 1024;
    return none_empty && grid_fits && block_fits && shared_bytes <= 48 << 10;
}

// The version of CUDA that the driver supports, 12.8 as 12080. CUDA_HOST_DRIVER=12.2 stands for an older driver.
int cuda_version() {
    int major = 12, minor = 8;
    if (const char *version = std::getenv("CUDA_HOST_DRIVER")) std::sscanf(version, "%d.%d", &major, &minor);
    return major * 1000 + minor * 10;
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
    *value = attribute == CAPABILITY_MAJOR ? 8 : attribute == CAPABILITY_MINOR ? 0 : 1;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **out, int) { return *out = &context, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void *wanted) { return current_context = wanted, SUCCESS; }
int cuCtxGetCurrent(void **out) { return *out = current_context, SUCCESS; }
int cuCtxSynchronize() { return SUCCESS; }

// Streams and events: every call is complete when it returns.
int cuStreamSynchronize(void *) { return SUCCESS; }
int cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }
int cuStreamIsCapturing(void *, int *status) { return *status = 0, SUCCESS; }
int cuEventCreate(void **event, unsigned) { return *event = std::malloc(1), SUCCESS; }
int cuEventDestroy_v2(void *event) { return std::free(event), SUCCESS; }
int cuEventRecord(void *, void *) { return SUCCESS; }
int cuEventSynchronize(void *) { return SUCCESS; }

// Memory.
int cuMemAlloc_v2(std::uint64_t *pointer, std::size_t n_bytes) {
    return n_bytes ? allocate(pointer, n_bytes) : INVALID_VALUE;
}
int cuMemAllocAsync(std::uint64_t *pointer, std::size_t n_bytes, void *) { return allocate(pointer, n_bytes); }
int cuMemFree_v2(std::uint64_t pointer) { return release(pointer); }
int cuMemFreeAsync(std::uint64_t pointer, void *) { return release(pointer); }
int cuMemcpyHtoDAsync_v2(std::uint64_t to, const void *from, std::size_t n_bytes, void *) {
    if (!inside_one_allocation(to, n_bytes)) return INVALID_VALUE;
    std::memcpy(reinterpret_cast<void *>(to), from, n_bytes);
    return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, std::uint64_t from, std::size_t n_bytes, void *) {
    if (!inside_one_allocation(from, n_bytes)) return INVALID_VALUE;
    std::memcpy(to, reinterpret_cast<void *>(from), n_bytes);
    return SUCCESS;
}
int cuMemcpyDtoDAsync_v2(std::uint64_t to, std::uint64_t from, std::size_t n_bytes, void *) {
    if (!inside_one_allocation(to, n_bytes) || !inside_one_allocation(from, n_bytes)) return INVALID_VALUE;
    std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), n_bytes);
    return SUCCESS;
}
int cuMemsetD8Async(std::uint64_t to, unsigned char value, std::size_t n_bytes, void *) {
    if (!inside_one_allocation(to, n_bytes)) return INVALID_VALUE;
    std::memset(reinterpret_cast<void *>(to), value, n_bytes);
    return SUCCESS;
}

// Modules: the "PTX" names a shared library, which stays loaded.
int cuModuleLoadData(void **module, const void *image) {
    const std::string text = static_cast<const char *>(image);
    const std::string key = "\n.library ";
    const auto at = text.find(key);
    if (at == std::string::npos) return INVALID_PTX;
    if (!loads_ptx_of(text)) return UNSUPPORTED_PTX_VERSION;
    const auto start = at + key.size();
    const std::string path = text.substr(start, text.find('\n', start) - start) + (std::getenv("CUDA_HOST_ASAN") ? ".asan" : "");
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
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void *, void **args, void **) {
    const Dim3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    if (!fits_a_device(grid, block, shared_bytes)) return INVALID_VALUE;
    reinterpret_cast<Launch>(function)(grid, block, args);
    return SUCCESS;
}

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
