/* A libcuda.so.1 without a driver behind it. It answers what the CUDA runtime asks first: the
 * driver's version (FAKE_DRIVER_VERSION, as CUDA writes it: 12040 for 12.4) and the result of
 * cuInit (FAKE_CUINIT, an error number of CUDA). A runtime that gets an error from cuInit asks for
 * nothing more, so that every other function may be one that fails in the same way. */
#include <stdlib.h>
#include <string.h>

static int number(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : otherwise;
}

int cuDriverGetVersion(int *version)
{
    *version = number("FAKE_DRIVER_VERSION", 13000);
    return 0;
}

int cuInit(unsigned int flags)
{
    (void)flags;
    return number("FAKE_CUINIT", 100);
}

static int any_other(void)
{
    return number("FAKE_CUINIT", 100);
}

/* The runtime finds the driver's functions by name through this one. */
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags,
                        int *found)
{
    (void)version;
    (void)flags;
    if (!strcmp(name, "cuInit"))
        *function = (void *)cuInit;
    else if (!strcmp(name, "cuDriverGetVersion"))
        *function = (void *)cuDriverGetVersion;
    else if (!strcmp(name, "cuGetProcAddress"))
        *function = (void *)cuGetProcAddress_v2;
    else
        *function = (void *)any_other;
    if (found)
        *found = 0;
    return 0;
}

int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
