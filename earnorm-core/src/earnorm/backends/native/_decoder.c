/* Decodes the replies of find, getMore and aggregate into the same dicts as the driver does, about twice as fast.

   The driver's decoder knows nothing of the documents that come: for each it makes new texts for the keys, grows a
   dict step by step, and calls Python for each ObjectId. This module is told the keys first. A Plan has the stored
   keys of one model as interned texts, and a plan for each embedded model. So a document becomes a copy of a template
   dict into which the values are put, and a text that comes again and again (a city, a state) is one object.

   How a reply is read. Its bytes are searched for cursor.firstBatch or cursor.nextBatch. The documents in there are
   decoded here by the plan. All the rest (cursor id, ok, cluster time, an error) is cut out into a small document,
   which the driver's own decoder decodes.

   What it never does
   - It never says what is wrong with damaged bytes. At the first doubt it raises InvalidBSON, and the caller gives the
     whole reply to the driver, which takes or refuses it in its own words.
   - It never decides what a rare value becomes. Whatever is not in the switch of decode_value() (regular expressions,
     code, timestamps, binary subtypes, DBRefs, what lies very deep) is decoded by the driver, value by value.
   - It never reads outside of the bytes. There is one function that steps from element to element, next_element(), and
     one that enters a document, enter(). They check every length; whoever has an Element may read its `size` bytes.
   - It never shows a dict or a list before it is whole, and changes none that others may see. Templates are copied.
   - It uses nothing of CPython that the documentation does not name. It relies on the GIL: it refuses to compile for
     a free-threaded Python, for PyPy, and for a processor that is not little-endian, as BSON is.

   What differs from the driver, on purpose
   - Keys at the top that the plan does not have are left out, unread: a value that cannot be decoded under such a key
     is no error. Plan.take_others() tells that there were some. Inside of embedded documents nothing is left out.

   Words: a plan's layout is the order in which the keys of its documents came last, as numbers of fields. Documents of
   one collection mostly have the same layout, so the next key is compared with the expected one and not searched for.
   A layout that comes twice in a row becomes the plan's, with a template of its own. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <datetime.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(PYPY_VERSION) || defined(Py_GIL_DISABLED) || defined(WORDS_BIGENDIAN)
#error "the decoder is for CPython with its GIL on little-endian processors"
#endif

enum {
    INTERFACE = 1,     /* what earnorm.backends.native expects of this module */
    MOST_FIELDS = 128, /* of one plan; their values lie on the C stack */
    DEEPEST = 32,      /* documents and lists inside of each other; the driver decodes what lies deeper */
    KEPT = 4096,       /* texts that are kept, a power of two */
    LONGEST_KEPT = 40, /* bytes of such a text */
    TRIED = 256        /* texts of a field after which it is decided whether keeping them pays */
};

typedef struct Plan Plan;

typedef struct {
    PyObject *name;  /* the key, interned */
    const char *key; /* the same in UTF-8 with a final zero; it belongs to the name */
    Py_ssize_t key_size;
    Plan *inside;      /* of the document under the key, or of those in a list; NULL for other values */
    int keeps;         /* its texts repeat, as far as is known */
    unsigned tried, hit;
} Field;

struct Plan {
    PyObject_VAR_HEAD
    int has_others;
    int layout_size, last_size;
    unsigned char layout[MOST_FIELDS], last[MOST_FIELDS];
    PyObject *template; /* a dict with the layout's keys; it is replaced, never changed */
    Field fields[1];
};

/* What the driver gives, set once by setup(). */
static PyTypeObject *ObjectId;
static PyObject *set_object_id; /* the slot that holds an ObjectId's bytes */
static PyObject *from_bson, *Int64, *decimal_from_bid, *UUID, *InvalidBSON;
static PyObject *v_text, *cursor_text, *bytes_names;

static PyObject *kept[KEPT];

/* ---- the bytes ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *at, *end; /* the next element, and the final zero of the document */
} Elements;

typedef struct {
    const char *start, *key, *value;
    Py_ssize_t key_size, size; /* of the key without its zero, and of the value */
    unsigned char type;
    int is_expected;
} Element;

static int damaged(void) {
    PyErr_SetString(InvalidBSON, "the compiled decoder does not take this");
    return -1;
}

static inline int32_t int32_at(const char *p) {
    int32_t value;
    memcpy(&value, p, 4);
    return value;
}

static inline int64_t int64_at(const char *p) {
    int64_t value;
    memcpy(&value, p, 8);
    return value;
}

/* Enter a document or an array of exactly `size` bytes. */
static inline int enter(const char *p, Py_ssize_t size, Elements *elements) {
    if (size < 5 || int32_at(p) != size || p[size - 1]) return damaged();
    elements->at = p + 4;
    elements->end = p + size - 1;
    return 0;
}

/* Step to the next element. 1: there is one, and all of its bytes are there; 0: the document ends here; -1: damaged. */
static inline int next_element(Elements *elements, const Field *expected, Element *e) {
    const char *at = elements->at, *end = elements->end;
    Py_ssize_t left, size;
    if (at == end) return 0;
    e->start = at;
    e->type = (unsigned char)*at++;
    e->key = at;
    /* Up to and with `end` the bytes can be read, and a key's zero is before it or the element is damaged. */
    if (expected && end - at > expected->key_size && !memcmp(at, expected->key, (size_t)expected->key_size + 1)) {
        e->key_size = expected->key_size;
        e->is_expected = 1;
    } else {
        const char *zero = memchr(at, 0, (size_t)(end - at));
        if (!zero) return damaged();
        e->key_size = zero - at;
        e->is_expected = 0;
    }
    at += e->key_size + 1;
    left = end - at;
    switch (e->type) {
    case 1: case 9: case 17: case 18: size = 8; break;
    case 2: case 13: case 14: /* a text, its length before it and a zero behind it */
        if (left < 5 || int32_at(at) < 1) return damaged();
        size = 4 + (Py_ssize_t)int32_at(at);
        if (size > left || at[size - 1]) return damaged();
        break;
    case 3: case 4: case 15:
        if (left < 5) return damaged();
        size = int32_at(at);
        if (size < 5) return damaged();
        break;
    case 5:
        if (left < 5 || int32_at(at) < 0) return damaged();
        size = 5 + (Py_ssize_t)int32_at(at);
        break;
    case 6: case 10: case 127: case 255: size = 0; break;
    case 7: size = 12; break;
    case 8: size = 1; break;
    case 11: { /* two texts that end with a zero */
        const char *first = memchr(at, 0, (size_t)left), *second;
        if (!first || !(second = memchr(first + 1, 0, (size_t)(end - first - 1)))) return damaged();
        size = second + 1 - at;
        break;
    }
    case 12:
        if (left < 4 || int32_at(at) < 1) return damaged();
        size = 4 + (Py_ssize_t)int32_at(at) + 12;
        break;
    case 16: size = 4; break;
    case 19: size = 16; break;
    default: return damaged();
    }
    if (size > left) return damaged();
    e->value = at;
    e->size = size;
    elements->at = at + size;
    return 1;
}

/* ---- values ------------------------------------------------------------------------------------------------------- */

/* Any value at all: the driver decodes a document of this one element. */
static PyObject *by_driver(const Element *e) {
    Py_ssize_t size = e->size + 8;
    int32_t length = (int32_t)size;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size), *document, *value;
    char *p;
    if (!bytes) return NULL;
    p = PyBytes_AS_STRING(bytes);
    memcpy(p, &length, 4);
    p[4] = (char)e->type;
    p[5] = 'v';
    p[6] = 0;
    memcpy(p + 7, e->value, (size_t)e->size);
    p[size - 1] = 0;
    document = PyObject_CallOneArg(from_bson, bytes);
    Py_DECREF(bytes);
    if (!document) return NULL;
    value = PyObject_GetItem(document, v_text);
    Py_DECREF(document);
    return value;
}

static inline int is_ascii(const char *p, Py_ssize_t size) {
    for (; size >= 8; p += 8, size -= 8) {
        uint64_t eight;
        memcpy(&eight, p, 8);
        if (eight & 0x8080808080808080ULL) return 0;
    }
    while (size--)
        if (*p++ & 0x80) return 0;
    return 1;
}

static PyObject *utf8(const char *p, Py_ssize_t size) {
    PyObject *text = PyUnicode_DecodeUTF8(p, size, "strict");
    if (!text && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        damaged();
    }
    return text;
}

/* The place of a text among those that are kept. */
static inline unsigned place(const char *p, Py_ssize_t size) {
    uint64_t first = 0, last = 0, hash;
    if (size >= 8) {
        memcpy(&first, p, 8);
        memcpy(&last, p + size - 8, 8);
    } else {
        memcpy(&first, p, (size_t)size);
    }
    hash = (first * 0x9E3779B97F4A7C15ULL) ^ (last * 0xC2B2AE3D27D4EB4FULL) ^ (uint64_t)size;
    hash ^= hash >> 32;
    hash *= 0x9E3779B97F4A7C15ULL;
    return (unsigned)(hash >> 40) & (KEPT - 1);
}

static inline PyObject *text(const char *p, Py_ssize_t size, Field *field) {
    PyObject *made, **slot = NULL;
    if (size < 2 || !is_ascii(p, size)) return utf8(p, size); /* Python itself keeps the shortest ones */
    if (field && field->keeps && size <= LONGEST_KEPT) {
        slot = &kept[place(p, size)];
        field->tried++;
        if (*slot && PyUnicode_GET_LENGTH(*slot) == size && !memcmp(PyUnicode_1BYTE_DATA(*slot), p, (size_t)size)) {
            field->hit++;
            return Py_NewRef(*slot);
        }
        if (field->tried == TRIED) {
            field->keeps = field->hit >= TRIED / 2;
            field->tried = field->hit = 0;
        }
    }
    if (!(made = PyUnicode_New(size, 127))) return NULL;
    memcpy(PyUnicode_1BYTE_DATA(made), p, (size_t)size);
    if (slot) {
        PyObject *old = *slot;
        *slot = Py_NewRef(made);
        Py_XDECREF(old);
    }
    return made;
}

static inline PyObject *object_id(const char *p) {
    PyObject *bytes = PyBytes_FromStringAndSize(p, 12), *made;
    int failed;
    if (!bytes) return NULL;
    if (!(made = ObjectId->tp_alloc(ObjectId, 0))) {
        Py_DECREF(bytes);
        return NULL;
    }
    failed = Py_TYPE(set_object_id)->tp_descr_set(set_object_id, made, bytes);
    Py_DECREF(bytes);
    if (failed) {
        Py_DECREF(made);
        return NULL;
    }
    PyObject_GC_UnTrack(made); /* it holds bytes and nothing else, so it is in no cycle */
    return made;
}

/* Milliseconds since 1970 as a naive datetime: days to a date as in https://howardhinnant.github.io/date_algorithms.html */
static PyObject *date_time(int64_t milliseconds) {
    int64_t days = milliseconds / 86400000, rest = milliseconds % 86400000, era, year;
    unsigned day_of_era, year_of_era, day_of_year, shifted, day, month;
    int seconds;
    if (rest < 0) {
        rest += 86400000;
        days--;
    }
    if (days < -719162 || days > 2932896) { /* the years 1 to 9999 */
        damaged();
        return NULL;
    }
    days += 719468; /* since 0000-03-01: no year in the range is negative */
    era = (days >= 0 ? days : days - 146096) / 146097;
    day_of_era = (unsigned)(days - era * 146097);
    year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    shifted = (5 * day_of_year + 2) / 153;
    day = day_of_year - (153 * shifted + 2) / 5 + 1;
    month = shifted < 10 ? shifted + 3 : shifted - 9;
    year = (int64_t)year_of_era + era * 400 + (month <= 2);
    seconds = (int)(rest / 1000);
    return PyDateTimeAPI->DateTime_FromDateAndTime((int)year, (int)month, (int)day, seconds / 3600, seconds / 60 % 60,
        seconds % 60, (int)(rest % 1000) * 1000, Py_None, PyDateTimeAPI->DateTimeType);
}

/* Call a function of the driver with a value that is made for this call. */
static PyObject *called(PyObject *function, PyObject *argument) {
    PyObject *result;
    if (!argument) return NULL;
    result = PyObject_CallOneArg(function, argument);
    Py_DECREF(argument);
    return result;
}

static PyObject *uuid(const char *p) {
    PyObject *bytes = PyBytes_FromStringAndSize(p, 16), *made;
    if (!bytes) return NULL;
    made = PyObject_Vectorcall(UUID, &bytes, 0, bytes_names);
    Py_DECREF(bytes);
    return made;
}

static PyObject *decode_free(const Element *e, int depth);
static PyObject *decode_list(const Element *e, Field *field, int depth);
static PyObject *decode_planned(Plan *plan, const Element *e, int depth);

/* `field` is that of a plan under which the value was found, itself or in a list; NULL elsewhere. */
static inline PyObject *decode_value(const Element *e, Field *field, int depth) {
    const char *p = e->value;
    switch (e->type) {
    case 1: {
        double value;
        memcpy(&value, p, 8);
        return PyFloat_FromDouble(value);
    }
    case 2: return text(p + 4, e->size - 5, field);
    case 3:
        if (depth >= DEEPEST) return by_driver(e);
        return field && field->inside ? decode_planned(field->inside, e, depth + 1) : decode_free(e, depth + 1);
    case 4: return depth >= DEEPEST ? by_driver(e) : decode_list(e, field, depth + 1);
    case 5: /* subtype 0 is bytes, and 4 a UUID, as bson_form.CODEC says */
        if (p[4] == 0) return PyBytes_FromStringAndSize(p + 5, e->size - 5);
        return p[4] == 4 && e->size == 21 ? uuid(p + 5) : by_driver(e);
    case 6: case 10: Py_RETURN_NONE;
    case 7: return object_id(p);
    case 8:
        if (p[0] == 0) Py_RETURN_FALSE;
        if (p[0] == 1) Py_RETURN_TRUE;
        damaged();
        return NULL;
    case 9: return date_time(int64_at(p));
    case 16: return PyLong_FromLong(int32_at(p));
    case 18: return called(Int64, PyLong_FromLongLong(int64_at(p)));
    case 19: return called(decimal_from_bid, PyBytes_FromStringAndSize(p, 16));
    default: return by_driver(e);
    }
}

static PyObject *decode_list(const Element *e, Field *field, int depth) {
    Elements elements;
    Element item;
    int more;
    PyObject *list;
    if (enter(e->value, e->size, &elements) < 0 || !(list = PyList_New(0))) return NULL;
    while ((more = next_element(&elements, NULL, &item)) > 0) {
        PyObject *value = decode_value(&item, field, depth);
        int failed = !value || PyList_Append(list, value) < 0;
        Py_XDECREF(value);
        if (failed) {
            more = -1;
            break;
        }
    }
    if (more < 0) Py_CLEAR(list);
    return list;
}

/* A document without a plan. */
static PyObject *decode_free(const Element *e, int depth) {
    Elements elements;
    Element item;
    int more;
    PyObject *document;
    if (enter(e->value, e->size, &elements) < 0 || !(document = PyDict_New())) return NULL;
    while ((more = next_element(&elements, NULL, &item)) > 0) {
        PyObject *key, *value;
        int failed;
        if (item.key[0] == '$') { /* it may be a DBRef */
            Py_DECREF(document);
            return by_driver(e);
        }
        key = utf8(item.key, item.key_size);
        value = key ? decode_value(&item, NULL, depth) : NULL;
        failed = !value || PyDict_SetItem(document, key, value) < 0;
        Py_XDECREF(key);
        Py_XDECREF(value);
        if (failed) {
            more = -1;
            break;
        }
    }
    if (more < 0) Py_CLEAR(document);
    return document;
}

/* ---- documents with a plan ---------------------------------------------------------------------------------------- */

static int find_field(Plan *plan, const Element *e) {
    for (int i = 0; i < Py_SIZE(plan); i++)
        if (plan->fields[i].key_size == e->key_size && !memcmp(plan->fields[i].key, e->key, (size_t)e->key_size))
            return i;
    return -1;
}

/* Make a layout that came twice in a row the plan's own. */
static int learn(Plan *plan, const unsigned char *order, int count) {
    PyObject *template, *old;
    if (count != plan->last_size || memcmp(order, plan->last, (size_t)count)) {
        memcpy(plan->last, order, (size_t)count);
        plan->last_size = count;
        return 0;
    }
    if (!(template = PyDict_New())) return -1;
    for (int i = 0; i < count; i++) {
        if (PyDict_SetItem(template, plan->fields[order[i]].name, Py_None) < 0) {
            Py_DECREF(template);
            return -1;
        }
    }
    memcpy(plan->layout, order, (size_t)count);
    plan->layout_size = count;
    old = plan->template;
    plan->template = template;
    Py_XDECREF(old);
    return 0;
}

/* A new dict for the values of a document with this layout. */
static PyObject *blank(Plan *plan, const unsigned char *order, int count) {
    if (count == plan->layout_size && !memcmp(order, plan->layout, (size_t)count) && plan->template) {
        PyObject *template = Py_NewRef(plan->template), *made = PyDict_Copy(template);
        Py_DECREF(template);
        return made;
    }
    return learn(plan, order, count) < 0 ? NULL : PyDict_New();
}

/* Decode a document by a plan: one of a batch if depth is 0, else an embedded one. */
static PyObject *decode_planned(Plan *plan, const Element *e, int depth) {
    PyObject *values[MOST_FIELDS], *document = NULL;
    unsigned char order[MOST_FIELDS], is_there[MOST_FIELDS];
    Elements elements;
    Element item;
    int count = 0, more, is_free = 0;
    memset(is_there, 0, (size_t)Py_SIZE(plan));
    if (enter(e->value, e->size, &elements) < 0) return NULL;
    for (;;) {
        int expected = count < plan->layout_size ? plan->layout[count] : -1, number;
        PyObject *value;
        more = next_element(&elements, expected < 0 ? NULL : &plan->fields[expected], &item);
        if (more <= 0) break;
        number = item.is_expected ? expected : find_field(plan, &item);
        if (number < 0) {
            if (depth) { /* what is inside of an embedded document stays */
                is_free = 1;
                break;
            }
            if (item.key[0] == '$') { /* it may be a DBRef */
                more = damaged();
                break;
            }
            plan->has_others = 1;
            continue;
        }
        if (!(value = decode_value(&item, &plan->fields[number], depth))) {
            more = -1;
            break;
        }
        if (is_there[number]) { /* a key that comes twice has its first place and its last value */
            int i = 0;
            while (order[i] != number) i++;
            Py_SETREF(values[i], value);
        } else {
            is_there[number] = 1;
            order[count] = (unsigned char)number;
            values[count++] = value;
        }
    }
    if (!more && (document = blank(plan, order, count))) {
        for (int i = 0; i < count; i++) {
            if (PyDict_SetItem(document, plan->fields[order[i]].name, values[i]) < 0) {
                Py_CLEAR(document);
                break;
            }
        }
    }
    for (int i = 0; i < count; i++) Py_DECREF(values[i]);
    return is_free ? decode_free(e, depth) : document;
}

/* ---- plans -------------------------------------------------------------------------------------------------------- */

static void plan_dealloc(PyObject *self) {
    Plan *plan = (Plan *)self;
    for (Py_ssize_t i = 0; i < Py_SIZE(plan); i++) {
        Py_XDECREF(plan->fields[i].name);
        Py_XDECREF(plan->fields[i].inside);
    }
    Py_XDECREF(plan->template);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *plan_take_others(PyObject *self, PyObject *Py_UNUSED(nothing)) {
    Plan *plan = (Plan *)self;
    int had = plan->has_others;
    plan->has_others = 0;
    return PyBool_FromLong(had);
}

static PyMethodDef plan_methods[] = {
    {"take_others", plan_take_others, METH_NOARGS,
     "Return whether keys were left out since the last time that this was asked."},
    {NULL, NULL, 0, NULL},
};

static PyObject *plan_new(PyTypeObject *type, PyObject *arguments, PyObject *Py_UNUSED(keywords));

static PyTypeObject PlanType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "earnorm.backends.native._decoder.Plan",
    .tp_doc = "The stored keys of a model's documents: Plan([(key, plan of what is under it or None), ...]).",
    .tp_basicsize = offsetof(Plan, fields),
    .tp_itemsize = sizeof(Field),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = plan_new,
    .tp_dealloc = plan_dealloc,
    .tp_methods = plan_methods,
};

/* Fill in one field; a plan that fails is given up as a whole. */
static int set_field(Field *field, PyObject *item) {
    PyObject *name, *inside;
    if (!PyTuple_Check(item)) {
        PyErr_SetString(PyExc_TypeError, "a pair of a key and a plan is expected");
        return -1;
    }
    if (!PyArg_ParseTuple(item, "UO", &name, &inside)) return -1;
    if (inside != Py_None && !Py_IS_TYPE(inside, &PlanType)) {
        PyErr_SetString(PyExc_TypeError, "a plan or None is expected beside a key");
        return -1;
    }
    field->name = Py_NewRef(name);
    PyUnicode_InternInPlace(&field->name);
    if (!(field->key = PyUnicode_AsUTF8AndSize(field->name, &field->key_size))) return -1;
    if (field->key[0] == '$' || strlen(field->key) != (size_t)field->key_size) {
        PyErr_SetString(PyExc_ValueError, "a key of a plan begins with $ or has a zero inside");
        return -1;
    }
    field->inside = inside == Py_None ? NULL : (Plan *)Py_NewRef(inside);
    field->keeps = 1;
    return 0;
}

static PyObject *plan_new(PyTypeObject *type, PyObject *arguments, PyObject *Py_UNUSED(keywords)) {
    PyObject *list;
    Plan *plan;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "O!", &PyList_Type, &list)) return NULL;
    size = PyList_GET_SIZE(list);
    if (size > MOST_FIELDS) {
        PyErr_Format(PyExc_ValueError, "a plan has at most %d keys", MOST_FIELDS);
        return NULL;
    }
    if (!(plan = (Plan *)type->tp_alloc(type, size))) return NULL; /* all zero */
    for (Py_ssize_t i = 0; i < size; i++) {
        if (set_field(&plan->fields[i], PyList_GET_ITEM(list, i)) < 0) goto failed;
        plan->last[i] = (unsigned char)i;
    }
    plan->last_size = (int)size; /* until another one comes, the layout is the order of the fields */
    if (learn(plan, plan->last, (int)size) < 0) goto failed;
    return (PyObject *)plan;
failed:
    Py_DECREF(plan);
    return NULL;
}

/* ---- the module's functions --------------------------------------------------------------------------------------- */

static int given_plan(PyObject *const *arguments, Py_ssize_t count) {
    if (count == 2 && Py_IS_TYPE(arguments[0], &PlanType)) return 1;
    PyErr_SetString(PyExc_TypeError, "a plan and bytes are expected");
    return 0;
}

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count) {
    Py_buffer bytes;
    PyObject *document;
    if (!given_plan(arguments, count) || PyObject_GetBuffer(arguments[1], &bytes, PyBUF_SIMPLE) < 0) return NULL;
    Element whole = {.value = bytes.buf, .size = bytes.len, .type = 3};
    document = decode_planned((Plan *)arguments[0], &whole, 0);
    PyBuffer_Release(&bytes);
    return document;
}

static inline int is_key(const Element *e, unsigned char type, const char *key) {
    return e->type == type && (size_t)e->key_size == strlen(key) && !memcmp(e->key, key, (size_t)e->key_size);
}

/* Find cursor.firstBatch or cursor.nextBatch of a reply. 1: it is there; 0: it is not; -1: damaged. */
static int find_batch(const char *p, Py_ssize_t size, Element *cursor, Element *batch) {
    Elements elements;
    int more;
    if (enter(p, size, &elements) < 0) return -1;
    while ((more = next_element(&elements, NULL, cursor)) > 0 && !is_key(cursor, 3, "cursor")) {}
    if (more <= 0) return more;
    if (enter(cursor->value, cursor->size, &elements) < 0) return -1;
    while ((more = next_element(&elements, NULL, batch)) > 0)
        if (is_key(batch, 4, "firstBatch") || is_key(batch, 4, "nextBatch")) return 1;
    return more;
}

static PyObject *decode_batch(Plan *plan, const Element *batch) {
    Elements elements;
    Element item;
    int more;
    PyObject *list;
    if (enter(batch->value, batch->size, &elements) < 0 || !(list = PyList_New(0))) return NULL;
    while ((more = next_element(&elements, NULL, &item)) > 0) {
        PyObject *document = NULL;
        int failed;
        if (item.type == 3) document = decode_planned(plan, &item, 0);
        else damaged();
        failed = !document || PyList_Append(list, document) < 0;
        Py_XDECREF(document);
        if (failed) {
            more = -1;
            break;
        }
    }
    if (more < 0) Py_CLEAR(list);
    return list;
}

/* All of a reply but its batch, decoded by the driver. */
static PyObject *decode_rest(const char *p, Py_ssize_t size, const Element *cursor, const Element *batch) {
    const char *end = batch->value + batch->size;
    Py_ssize_t cut = end - batch->start, before = batch->start - p;
    int32_t length = (int32_t)(size - cut), cursor_length = (int32_t)(cursor->size - cut);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size - cut);
    char *q;
    if (!bytes) return NULL;
    q = PyBytes_AS_STRING(bytes);
    memcpy(q, p, (size_t)before);
    memcpy(q + before, end, (size_t)(p + size - end));
    memcpy(q, &length, 4);
    memcpy(q + (cursor->value - p), &cursor_length, 4);
    return called(from_bson, bytes);
}

static PyObject *reply(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count) {
    Py_buffer bytes;
    Element cursor, batch;
    PyObject *rest = NULL, *list = NULL, *key = NULL, *inside;
    int there;
    if (!given_plan(arguments, count) || PyObject_GetBuffer(arguments[1], &bytes, PyBUF_SIMPLE) < 0) return NULL;
    there = find_batch(bytes.buf, bytes.len, &cursor, &batch);
    if (!there) {
        rest = PyObject_CallOneArg(from_bson, arguments[1]);
    } else if (there > 0 && (list = decode_batch((Plan *)arguments[0], &batch))
        && (key = PyUnicode_FromStringAndSize(batch.key, batch.key_size))
        && (rest = decode_rest(bytes.buf, bytes.len, &cursor, &batch))) {
        inside = PyDict_CheckExact(rest) ? PyDict_GetItemWithError(rest, cursor_text) : NULL;
        if (!inside || !PyDict_CheckExact(inside) || PyDict_Contains(inside, key)) {
            if (!PyErr_Occurred()) damaged(); /* a second cursor, or a second batch */
            Py_CLEAR(rest);
        } else if (PyDict_SetItem(inside, key, list) < 0) {
            Py_CLEAR(rest);
        }
    }
    Py_XDECREF(list);
    Py_XDECREF(key);
    PyBuffer_Release(&bytes);
    return rest;
}

static PyObject *setup(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *object_id_type, *slot, *decode_whole, *int64, *from_bid, *uuid_type, *invalid;
    if (!PyArg_ParseTuple(arguments, "O!OOOOOO", &PyType_Type, &object_id_type, &slot, &decode_whole, &int64, &from_bid,
            &uuid_type, &invalid))
        return NULL;
    if (Py_TYPE(slot)->tp_descr_set == NULL || !PyType_IS_GC((PyTypeObject *)object_id_type)) {
        PyErr_SetString(PyExc_TypeError, "an ObjectId is not as expected");
        return NULL;
    }
    Py_XSETREF(ObjectId, (PyTypeObject *)Py_NewRef(object_id_type));
    Py_XSETREF(set_object_id, Py_NewRef(slot));
    Py_XSETREF(from_bson, Py_NewRef(decode_whole));
    Py_XSETREF(Int64, Py_NewRef(int64));
    Py_XSETREF(decimal_from_bid, Py_NewRef(from_bid));
    Py_XSETREF(UUID, Py_NewRef(uuid_type));
    Py_XSETREF(InvalidBSON, Py_NewRef(invalid));
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"setup", setup, METH_VARARGS, "Take the driver's types and functions; nothing else works before."},
    {"decode", (PyCFunction)(void (*)(void))decode, METH_FASTCALL, "Decode one document by a plan."},
    {"reply", (PyCFunction)(void (*)(void))reply, METH_FASTCALL, "Decode a reply whose documents have a plan."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_decoder", "Decodes replies of find, getMore and aggregate.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__decoder(void) {
    PyObject *module;
    PyDateTime_IMPORT;
    if (!PyDateTimeAPI || PyType_Ready(&PlanType) < 0) return NULL;
    v_text = PyUnicode_InternFromString("v");
    cursor_text = PyUnicode_InternFromString("cursor");
    bytes_names = Py_BuildValue("(s)", "bytes");
    if (!v_text || !cursor_text || !bytes_names || !(module = PyModule_Create(&definition))) return NULL;
    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0
        || PyModule_AddIntConstant(module, "MOST_FIELDS", MOST_FIELDS) < 0
        || PyModule_AddObjectRef(module, "Plan", (PyObject *)&PlanType) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
