/*
 * Accepting many connections in one call, and an object for each.
 *
 * portlisten/_kernel/batch.py is the same in Python, and documents it.  Its tests are
 * the tests of both.
 *
 * A connection that was accepted is never lost for want of memory: everything that is
 * needed to return it was allocated before accept4(2) is called.  So there are two
 * allocations for a call, one for each connection, and none after accept4(2).
 *
 * Nothing here releases the interpreter's lock.  Each system call returns at once: the
 * listening sockets do not block, and closing a connection that does not linger does
 * not wait.  To take the lock back could take much longer than such a call, up to the
 * switch interval of 5 ms, if the thread that writes the log has it.
 */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE

#include <Python.h>
#include <structmember.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/*
 * The next number for a change that callers notice: INTERFACE in portlisten/_compiled.py.
 * A library that was built before that change is not used.
 */
#define INTERFACE 2

/* linux/include/uapi: the headers of the C library may lack them. */
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* The most bytes of a socket option. */
#define MAXIMUM_OPTION 1024

/* How often a call is made that fails with a temporary error: retry() in errors.py. */
#define TRIES 11

typedef struct {
    PyTypeObject *connection;
} State;

/*
 * descriptor belongs to this object if sock is NULL, and to sock otherwise.  It is -1
 * before the connection is accepted, and after its copy is closed.  address is NULL if
 * nobody has asked for it: then raw has it.
 */
typedef struct {
    PyObject_HEAD
    int descriptor;
    int family;
    int proto;
    unsigned long long cookie;
    PyObject *sock;
    PyObject *address;
    socklen_t size;
    struct sockaddr_storage raw;
} Connection;

/*
 * Return None.  With the headers of Python 3.12 and 3.13.0, Py_RETURN_NONE adds no
 * reference, even if older versions are to load the library, which count references of
 * None as of any other object.
 */
static PyObject *
none(void)
{
    Py_INCREF(Py_None);
    return Py_None;
}

/* Whether a later try of any call may succeed: TEMPORARY_ERRORS in errors.py. */
static int
isTemporary(int number)
{
    switch (number) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EINTR:
    case ENOSPC:
    case EAGAIN:
        return 1;
    default:
        return 0;
    }
}

/*
 * Whether an error of accept4(2) is the port's, and no single connection's:
 * EXHAUSTION_ERRORS and UNUSABLE_ERRORS in errors.py.
 */
static int
isPorts(int number)
{
    switch (number) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EBADF:
    case EINVAL:
    case ENOTSOCK:
        return 1;
    default:
        return 0;
    }
}

static int
getOption(int descriptor, int option, void *value, socklen_t size)
{
    int result = -1;

    for (int i = 0; i < TRIES; i++) {
        socklen_t got = size;

        result = getsockopt(descriptor, SOL_SOCKET, option, value, &got);
        if (result == 0 || !isTemporary(errno))
            break;
    }
    return result;
}

/*
 * Read the cookie of a connection whose proto is known: cookieOf() in sockets.py.
 * Returns 0, or -1 with errno set.
 */
static int
readCookie(Connection *self)
{
    struct stat status;

    if (self->proto != IPPROTO_MPTCP)
        return getOption(self->descriptor, SO_COOKIE, &self->cookie,
                         sizeof self->cookie);
    if (fstat(self->descriptor, &status))
        return -1;
    self->cookie = 1ULL << 63 | (unsigned long long)status.st_ino;
    return 0;
}

/* Make the address of the client, as socket.accept() returns it. */
static PyObject *
makeAddress(const Connection *self)
{
    char host[INET6_ADDRSTRLEN];

    if (self->size == 0)
        return none();
    switch (self->raw.ss_family) {
    case AF_INET: {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&self->raw;

        if (inet_ntop(AF_INET, &in->sin_addr, host, sizeof host) == NULL)
            return PyErr_SetFromErrno(PyExc_OSError);
        return Py_BuildValue("si", host, (int)ntohs(in->sin_port));
    }
    case AF_INET6: {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&self->raw;

        if (inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host) == NULL)
            return PyErr_SetFromErrno(PyExc_OSError);
        return Py_BuildValue("siII", host, (int)ntohs(in->sin6_port),
                             (unsigned int)ntohl(in->sin6_flowinfo),
                             (unsigned int)in->sin6_scope_id);
    }
    case AF_UNIX: {
        size_t start = offsetof(struct sockaddr_un, sun_path);
        const char *path = (const char *)&self->raw + start;
        size_t length = self->size > start ? self->size - start : 0;

        if (length > sizeof self->raw - start)
            length = sizeof self->raw - start;
        if (length > 0 && path[0] == '\0')
            return PyBytes_FromStringAndSize(path, (Py_ssize_t)length);
        /* The longest path has no zero at its end. */
        return PyUnicode_DecodeFSDefaultAndSize(path, (Py_ssize_t)strnlen(path, length));
    }
    default:
        return none();
    }
}

static PyObject *
Connection_getAddress(PyObject *object, void *Py_UNUSED(closure))
{
    Connection *self = (Connection *)object;

    if (self->address == NULL) {
        self->address = makeAddress(self);
        if (self->address == NULL)
            return NULL;
    }
    Py_INCREF(self->address);
    return self->address;
}

/* The bytes of an address of IPv4 or IPv6: those of IPv4 if it is mapped to IPv6. */
static PyObject *
packed(const void *address, int family)
{
    const char *bytes = address;

    if (family == AF_INET)
        return PyBytes_FromStringAndSize(bytes, 4);
    if (IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)address))
        return PyBytes_FromStringAndSize(bytes + 12, 4);
    return PyBytes_FromStringAndSize(bytes, 16);
}

static PyObject *
Connection_getPacked(PyObject *object, void *Py_UNUSED(closure))
{
    Connection *self = (Connection *)object;
    const char *text;
    char host[INET6_ADDRSTRLEN + 1];
    struct in6_addr address;
    PyObject *first;

    if (self->sock == NULL) {
        if (self->size == 0)
            return PyBytes_FromStringAndSize(NULL, 0);
        if (self->raw.ss_family == AF_INET)
            return packed(&((const struct sockaddr_in *)&self->raw)->sin_addr, AF_INET);
        if (self->raw.ss_family == AF_INET6)
            return packed(&((const struct sockaddr_in6 *)&self->raw)->sin6_addr,
                          AF_INET6);
        return PyBytes_FromStringAndSize(NULL, 0);
    }
    if (!PyTuple_Check(self->address) || PyTuple_Size(self->address) < 2)
        return PyBytes_FromStringAndSize(NULL, 0);
    first = PyTuple_GetItem(self->address, 0);
    if (first == NULL)
        return NULL;
    text = PyUnicode_AsUTF8AndSize(first, NULL);
    if (text == NULL)
        return NULL;
    /* IPv6 may have a scope behind the address. */
    memset(host, 0, sizeof host);
    for (size_t i = 0; i < sizeof host - 1 && text[i] != '\0' && text[i] != '%'; i++)
        host[i] = text[i];
    if (inet_pton(AF_INET, host, &address) == 1)
        return packed(&address, AF_INET);
    if (inet_pton(AF_INET6, host, &address) == 1)
        return packed(&address, AF_INET6);
    return PyBytes_FromStringAndSize(NULL, 0);
}

static PyObject *
Connection_fileno(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(((Connection *)object)->descriptor);
}

static PyObject *
Connection_getsockopt(PyObject *object, PyObject *args)
{
    int descriptor = ((Connection *)object)->descriptor;
    char data[MAXIMUM_OPTION];
    int level, option, number = 0, size = 0;
    socklen_t got;

    if (!PyArg_ParseTuple(args, "ii|i:getsockopt", &level, &option, &size))
        return NULL;
    if (size < 0 || size > MAXIMUM_OPTION) {
        PyErr_SetString(PyExc_OSError, "getsockopt buflen out of range");
        return NULL;
    }
    if (size == 0) {
        got = sizeof number;
        if (getsockopt(descriptor, level, option, &number, &got))
            return PyErr_SetFromErrno(PyExc_OSError);
        return PyLong_FromLong(number);
    }
    got = (socklen_t)size;
    if (getsockopt(descriptor, level, option, data, &got))
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyBytes_FromStringAndSize(data, (Py_ssize_t)got);
}

/* Close the descriptor, which is not -1. */
static PyObject *
closeDescriptor(Connection *self)
{
    int descriptor = self->descriptor;

    self->descriptor = -1;
    if (self->sock != NULL)
        return PyObject_CallMethod(self->sock, "close", NULL);
    /* The descriptor is free even if this fails: close(2). */
    (void)close(descriptor);
    return none();
}

static PyObject *
Connection_reset(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Connection *self = (Connection *)object;
    struct linger linger = {1, 0};

    if (self->descriptor < 0)
        return none();
    (void)setsockopt(self->descriptor, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    return closeDescriptor(self);
}

static PyObject *
Connection_closeCopy(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Connection *self = (Connection *)object;
    struct linger linger = {0, 0};
    socklen_t size = sizeof linger;
    int descriptor = self->descriptor;

    if (descriptor < 0)
        return none();
    /* Reading the option is faster than setting it, which locks the socket. */
    if (getsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, &size) ||
        linger.l_onoff) {
        memset(&linger, 0, sizeof linger);
        (void)setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    return closeDescriptor(self);
}

/* Take a number that a call or an attribute of a socket gives, and drop the reference. */
static int
takeNumber(PyObject *value, int *number)
{
    long result;

    if (value == NULL)
        return -1;
    result = PyLong_AsLong(value);
    Py_DECREF(value);
    if (result == -1 && PyErr_Occurred())
        return -1;
    *number = (int)result;
    return 0;
}

static PyObject *
Connection_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"sock", "address", NULL};
    PyObject *sock, *address;
    Connection *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:Connection", names, &sock,
                                     &address))
        return NULL;
    self = (Connection *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->descriptor = -1;
    Py_INCREF(sock);
    self->sock = sock;
    Py_INCREF(address);
    self->address = address;
    if (takeNumber(PyObject_CallMethod(sock, "fileno", NULL), &self->descriptor) ||
        takeNumber(PyObject_GetAttrString(sock, "family"), &self->family) ||
        takeNumber(PyObject_GetAttrString(sock, "proto"), &self->proto))
        goto failed;
    if (readCookie(self)) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static void
Connection_dealloc(PyObject *object)
{
    Connection *self = (Connection *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (self->sock == NULL && self->descriptor >= 0)
        (void)close(self->descriptor);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->address);
    release(self);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef connectionMethods[] = {
    {"fileno", Connection_fileno, METH_NOARGS, NULL},
    {"getsockopt", Connection_getsockopt, METH_VARARGS, NULL},
    {"closeCopy", Connection_closeCopy, METH_NOARGS, NULL},
    {"reset", Connection_reset, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef connectionMembers[] = {
    {"family", T_INT, offsetof(Connection, family), READONLY, NULL},
    {"proto", T_INT, offsetof(Connection, proto), READONLY, NULL},
    {"cookie", T_ULONGLONG, offsetof(Connection, cookie), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef connectionGetters[] = {
    {"address", Connection_getAddress, NULL, NULL, NULL},
    {"packed", Connection_getPacked, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot connectionSlots[] = {
    {Py_tp_new, Connection_new},
    {Py_tp_dealloc, Connection_dealloc},
    {Py_tp_methods, connectionMethods},
    {Py_tp_members, connectionMembers},
    {Py_tp_getset, connectionGetters},
    {0, NULL},
};

static PyType_Spec connectionSpec = {
    .name = "portlisten._kernel._batch.Connection",
    .basicsize = sizeof(Connection),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = connectionSlots,
};

/*
 * Accept one connection into an object that is not connected yet.  Returns 0, or the
 * number of the error.  Then the object is not connected.
 */
static int
acceptInto(Connection *self, int descriptor, int protocol)
{
    self->size = sizeof self->raw;
    self->descriptor =
        accept4(descriptor, (struct sockaddr *)&self->raw, &self->size, SOCK_CLOEXEC);
    if (self->descriptor < 0)
        return errno;
    /* Only a socket of Multipath TCP gives connections of that protocol, or others. */
    self->proto = 0;
    if ((protocol == IPPROTO_MPTCP &&
         getOption(self->descriptor, SO_PROTOCOL, &self->proto, sizeof self->proto)) ||
        readCookie(self)) {
        int number = errno;

        /* Nobody can be told of a connection without a number. */
        (void)close(self->descriptor);
        self->descriptor = -1;
        return number;
    }
    return 0;
}

static PyObject *
acceptMany(PyObject *module, PyObject *args)
{
    State *state = PyModule_GetState(module);
    PyObject *kind, *sock, *list, *result;
    Connection *spare = NULL;
    Py_ssize_t most, count = 0, tries;
    int descriptor, family, protocol, number = 0;

    if (!PyArg_ParseTuple(args, "OOin:acceptMany", &kind, &sock, &family, &most))
        return NULL;
    if (!PyType_Check(kind) ||
        !PyType_IsSubtype((PyTypeObject *)kind, state->connection)) {
        PyErr_SetString(PyExc_TypeError, "kind must be a subclass of Connection");
        return NULL;
    }
    if (takeNumber(PyObject_CallMethod(sock, "fileno", NULL), &descriptor) ||
        takeNumber(PyObject_GetAttrString(sock, "proto"), &protocol))
        return NULL;
    if (most < 0)
        most = 0;
    result = PyTuple_New(2);
    if (result == NULL)
        return NULL;
    list = PyList_New(most);
    if (list == NULL) {
        Py_DECREF(result);
        return NULL;
    }
    for (tries = 0; tries < most; tries++) {
        if (spare == NULL) {
            spare = (Connection *)PyType_GenericAlloc((PyTypeObject *)kind, 0);
            if (spare == NULL) {
                PyErr_Clear();
                number = ENOMEM;
                break;
            }
            spare->descriptor = -1;
            spare->family = family;
        }
        number = acceptInto(spare, descriptor, protocol);
        if (number == 0) {
            PyList_SetItem(list, count++, (PyObject *)spare);
            spare = NULL;
        } else if (number == EAGAIN || isPorts(number)) {
            break;
        }
    }
    Py_XDECREF((PyObject *)spare);
    if (!isPorts(number))
        number = 0;
    /* The list has no items past count, and keeps their places.  This cannot fail. */
    Py_SET_SIZE((PyVarObject *)list, count);
    PyTuple_SetItem(result, 0, list);
    /* Python has made all numbers up to 256 already. */
    PyTuple_SetItem(result, 1, PyLong_FromLong(number));
    return result;
}

static PyMethodDef functions[] = {
    {"acceptMany", acceptMany, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
execute(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *type = PyType_FromModuleAndSpec(module, &connectionSpec, NULL);

    if (type == NULL)
        return -1;
    state->connection = (PyTypeObject *)type;
    Py_INCREF(type);
    if (PyModule_AddObject(module, "Connection", type)) {
        Py_DECREF(type);
        return -1;
    }
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static int
traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);

    if (state != NULL)
        Py_VISIT(state->connection);
    return 0;
}

static int
clear(PyObject *module)
{
    State *state = PyModule_GetState(module);

    if (state != NULL)
        Py_CLEAR(state->connection);
    return 0;
}

static void
release(void *module)
{
    (void)clear(module);
}

static PyModuleDef_Slot moduleSlots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "portlisten._kernel._batch",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = moduleSlots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC
PyInit__batch(void)
{
    return PyModuleDef_Init(&definition);
}
