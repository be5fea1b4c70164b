// SPDX-License-Identifier: Apache-2.0
// Typed values on Python's side. Exact types only: a subclass may carry an __eq__ that says yes to
// everything, so it is not data. The exceptions are three dict types of `collections`, which
// compare as dicts and are read as dicts. Nothing of the program's runs while a value is read: only
// the C functions of the exact types are used.
#include <Python.h>

#include "sandbox/box.h"

#include <stdlib.h>
#include <string.h>

// OrderedDict, defaultdict, Counter: borrowed for good from the warm interpreter.
static PyObject *dict_types[3];

int python_codec_prepare(void)
{
    static const char *const names[] = {"OrderedDict", "defaultdict", "Counter"};
    PyObject *collections = PyImport_ImportModule("collections");
    if (collections == NULL)
        return -1;
    int rc = 0;
    for (int i = 0; i < 3 && rc == 0; i++) {
        dict_types[i] = PyObject_GetAttrString(collections, names[i]);
        rc = dict_types[i] != NULL ? 0 : -1;
    }
    Py_DECREF(collections);
    return rc;
}

static bool put(struct python_bytes *out, const void *bytes, size_t len)
{
    if (len > WIRE_VALUE_MAX - out->len)
        return false;
    if (out->len + len > out->cap) {
        const size_t cap = (out->len + len) * 2;
        unsigned char *data = realloc(out->data, cap);
        if (data == NULL)
            return false;
        out->data = data;
        out->cap = cap;
    }
    memcpy(out->data + out->len, bytes, len);
    out->len += len;
    return true;
}

struct encoder {
    struct python_bytes *out;
    char *why;
    size_t why_size;
    int depth;
};

static bool encode(struct encoder *e, PyObject *v);

static bool refuse(struct encoder *e, const char *what)
{
    PyErr_Clear();
    PyOS_snprintf(e->why, e->why_size, "%.120s", what);
    return false;
}

static bool put_sized(struct encoder *e, char tag, const char *bytes, size_t len)
{
    const uint32_t n = (uint32_t)len;
    if (len > WIRE_VALUE_MAX || !put(e->out, &tag, 1) || !put(e->out, &n, sizeof n) ||
        !put(e->out, bytes, len))
        return refuse(e, "a value that is too long");
    return true;
}

// Hexadecimal, because both sides read it in linear time. '0x' is dropped.
static bool encode_int(struct encoder *e, PyObject *v)
{
    PyObject *text = PyNumber_ToBase(v, 16);
    Py_ssize_t len = 0;
    const char *s = text != NULL ? PyUnicode_AsUTF8AndSize(text, &len) : NULL;
    bool ok = false;
    if (s == NULL) {
        refuse(e, "an integer that is too long");
    } else if (s[0] == '-') {
        char *digits = malloc((size_t)len);
        ok = digits != NULL;
        if (ok) {
            digits[0] = '-';
            memcpy(digits + 1, s + 3, (size_t)len - 3);
            ok = put_sized(e, WIRE_INT, digits, (size_t)len - 2);
        }
        free(digits);
    } else {
        ok = put_sized(e, WIRE_INT, s + 2, (size_t)len - 2);
    }
    Py_XDECREF(text);
    return ok;
}

static bool encode_str(struct encoder *e, PyObject *v)
{
    PyObject *bytes = PyUnicode_AsEncodedString(v, "utf-8", "surrogatepass");
    if (bytes == NULL)
        return refuse(e, "a string that is too long");
    const bool ok =
        put_sized(e, WIRE_STR, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    return ok;
}

static bool begin(struct encoder *e, char tag, Py_ssize_t n)
{
    const uint32_t count = (uint32_t)n;
    if (e->depth >= WIRE_DEPTH_MAX)
        return refuse(e, "a value that is nested too deeply");
    if ((size_t)n > WIRE_VALUE_MAX || !put(e->out, &tag, 1) || !put(e->out, &count, sizeof count))
        return refuse(e, "a value that is too long");
    e->depth++;
    return true;
}

static bool encode_sequence(struct encoder *e, PyObject *v, char tag)
{
    const Py_ssize_t n = tag == WIRE_LIST ? PyList_GET_SIZE(v) : PyTuple_GET_SIZE(v);
    if (!begin(e, tag, n))
        return false;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!encode(e, tag == WIRE_LIST ? PyList_GET_ITEM(v, i) : PyTuple_GET_ITEM(v, i)))
            return false;
    }
    e->depth--;
    return true;
}

static bool encode_set(struct encoder *e, PyObject *v)
{
    if (!begin(e, WIRE_SET, PySet_GET_SIZE(v)))
        return false;
    PyObject *iterator = PyObject_GetIter(v);
    bool ok = iterator != NULL;
    while (ok) {
        PyObject *item = PyIter_Next(iterator);
        if (item == NULL)
            break;
        ok = encode(e, item);
        Py_DECREF(item);
    }
    Py_XDECREF(iterator);
    e->depth--;
    return ok;
}

static bool encode_dict(struct encoder *e, PyObject *v)
{
    if (!begin(e, WIRE_DICT, PyDict_GET_SIZE(v)))
        return false;
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(v, &at, &key, &value)) {
        if (!encode(e, key) || !encode(e, value))
            return false;
    }
    e->depth--;
    return true;
}

static bool put_double(struct encoder *e, char tag, const double *v, size_t n)
{
    return (put(e->out, &tag, 1) && put(e->out, v, n * sizeof *v)) ||
           refuse(e, "a value that is too long");
}

static bool encode(struct encoder *e, PyObject *v)
{
    if (v == Py_None || v == Py_True || v == Py_False) {
        const char tag = v == Py_None ? WIRE_NONE : v == Py_True ? WIRE_TRUE : WIRE_FALSE;
        return put(e->out, &tag, 1) || refuse(e, "a value that is too long");
    }
    if (PyLong_CheckExact(v))
        return encode_int(e, v);
    if (PyFloat_CheckExact(v)) {
        const double d = PyFloat_AS_DOUBLE(v);
        return put_double(e, WIRE_FLOAT, &d, 1);
    }
    if (PyUnicode_CheckExact(v))
        return encode_str(e, v);
    if (PyList_CheckExact(v))
        return encode_sequence(e, v, WIRE_LIST);
    if (PyTuple_CheckExact(v))
        return encode_sequence(e, v, WIRE_TUPLE);
    const PyTypeObject *type = Py_TYPE(v);
    if (PyDict_CheckExact(v) || (PyObject *)type == dict_types[0] ||
        (PyObject *)type == dict_types[1] || (PyObject *)type == dict_types[2])
        return encode_dict(e, v);
    if (PyAnySet_CheckExact(v))
        return encode_set(e, v);
    if (PyBytes_CheckExact(v))
        return put_sized(e, WIRE_BYTES, PyBytes_AS_STRING(v), (size_t)PyBytes_GET_SIZE(v));
    if (PyComplex_CheckExact(v)) {
        const Py_complex c = PyComplex_AsCComplex(v);
        const double part[2] = {c.real, c.imag};
        return put_double(e, WIRE_COMPLEX, part, 2);
    }
    char what[128];
    PyOS_snprintf(what, sizeof what, "an object of type '%.80s', which is not plain data",
                  type->tp_name);
    return refuse(e, what);
}

bool python_encode(struct python_bytes *out, PyObject *v, char *why, size_t why_size)
{
    struct encoder e = {.out = out, .why = why, .why_size = why_size};
    return encode(&e, v);
}

// Decoding. The bytes come from the supervisor; a fault in them is ours, so it is enough not to
// crash.
struct decoder {
    const unsigned char *at, *end;
};

static PyObject *decode(struct decoder *d);

static bool take(struct decoder *d, void *out, size_t n)
{
    if ((size_t)(d->end - d->at) < n) {
        PyErr_SetString(PyExc_ValueError, "an argument is cut off");
        return false;
    }
    memcpy(out, d->at, n);
    d->at += n;
    return true;
}

static PyObject *decode_text(struct decoder *d, char tag)
{
    uint32_t n;
    if (!take(d, &n, sizeof n))
        return NULL;
    if ((size_t)(d->end - d->at) < n) {
        PyErr_SetString(PyExc_ValueError, "an argument is cut off");
        return NULL;
    }
    const char *s = (const char *)d->at;
    d->at += n;
    if (tag == WIRE_STR)
        return PyUnicode_DecodeUTF8(s, n, "surrogatepass");
    if (tag == WIRE_BYTES)
        return PyBytes_FromStringAndSize(s, n);
    char *text = strndup(s, n);
    PyObject *v = text != NULL ? PyLong_FromString(text, NULL, 16) : PyErr_NoMemory();
    free(text);
    return v;
}

static PyObject *decode_sequence(struct decoder *d, char tag, uint32_t n)
{
    PyObject *v = tag == WIRE_TUPLE ? PyTuple_New(n) : PyList_New(n);
    for (uint32_t i = 0; v != NULL && i < n; i++) {
        PyObject *item = decode(d);
        if (item == NULL)
            Py_CLEAR(v);
        else if (tag == WIRE_TUPLE)
            PyTuple_SET_ITEM(v, i, item);
        else
            PyList_SET_ITEM(v, i, item);
    }
    return v;
}

static PyObject *decode_unordered(struct decoder *d, char tag, uint32_t n)
{
    PyObject *v = tag == WIRE_SET ? PySet_New(NULL) : PyDict_New();
    for (uint32_t i = 0; v != NULL && i < n; i++) {
        PyObject *key = decode(d);
        PyObject *item = key != NULL && tag == WIRE_DICT ? decode(d) : NULL;
        int rc = -1;
        if (key != NULL && tag == WIRE_SET)
            rc = PySet_Add(v, key);
        else if (item != NULL)
            rc = PyDict_SetItem(v, key, item);
        Py_XDECREF(key);
        Py_XDECREF(item);
        if (rc != 0)
            Py_CLEAR(v);
    }
    return v;
}

static PyObject *decode(struct decoder *d)
{
    char tag;
    double v[2];
    uint32_t n;
    if (!take(d, &tag, 1))
        return NULL;
    switch (tag) {
    case WIRE_NONE:
        Py_RETURN_NONE;
    case WIRE_TRUE:
        Py_RETURN_TRUE;
    case WIRE_FALSE:
        Py_RETURN_FALSE;
    case WIRE_FLOAT:
        return take(d, v, sizeof v[0]) ? PyFloat_FromDouble(v[0]) : NULL;
    case WIRE_COMPLEX:
        return take(d, v, sizeof v) ? PyComplex_FromDoubles(v[0], v[1]) : NULL;
    case WIRE_INT:
    case WIRE_STR:
    case WIRE_BYTES:
        return decode_text(d, tag);
    case WIRE_LIST:
    case WIRE_TUPLE:
        return take(d, &n, sizeof n) && n <= d->end - d->at ? decode_sequence(d, tag, n) : NULL;
    case WIRE_SET:
    case WIRE_DICT:
        return take(d, &n, sizeof n) ? decode_unordered(d, tag, n) : NULL;
    default:
        PyErr_SetString(PyExc_ValueError, "an argument of an unknown kind");
        return NULL;
    }
}

PyObject *python_decode(const unsigned char *in, size_t len, size_t *used)
{
    struct decoder d = {.at = in, .end = in + len};
    PyObject *v = decode(&d);
    *used = (size_t)(d.at - in);
    return v;
}
