package cache

import (
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
)

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

// encodable says whether encodeKey gives every key of the type a text of its own.
func encodable[K comparable]() error {
	return encodableType(reflect.TypeFor[K]())
}

func encodableType(t reflect.Type) error {
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Chan, reflect.UnsafePointer:
		return fmt.Errorf("keys of type %v need it", t) // equal ones may not look equal to another process
	}
	if t.Implements(textMarshaler) {
		return nil
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return nil
	case reflect.Array:
		return encodableType(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			// Reflection cannot call a method of an unexported field.
			if !f.IsExported() && f.Type.Implements(textMarshaler) || encodableType(f.Type) != nil {
				return fmt.Errorf("keys of type %v need it (field %s)", t, f.Name)
			}
		}
		return nil
	}
	return fmt.Errorf("keys of type %v need it", t)
}

// encodeKey returns a text of its own for each key of a type that is encodable.
func encodeKey[K comparable](key K) string {
	switch k := any(key).(type) {
	case string:
		return k
	case int:
		return strconv.Itoa(k)
	case int64:
		return strconv.FormatInt(k, 10)
	}
	v := reflect.ValueOf(key)
	if !v.Type().Implements(textMarshaler) && v.Kind() == reflect.String {
		return v.String()
	}
	return string(appendKey(nil, v))
}

func appendKey(b []byte, v reflect.Value) []byte {
	if v.CanInterface() && v.Type().Implements(textMarshaler) {
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			return fmt.Appendf(b, "!%#v", v.Interface()) // such as a time in the year 10000
		}
		return append(b, text...)
	}
	switch v.Kind() {
	case reflect.String:
		return append(b, v.String()...)
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool())
	case reflect.Array:
		for i := range v.Len() {
			b = appendPart(b, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			b = appendPart(b, v.Field(i))
		}
	default:
		if v.CanInt() {
			return strconv.AppendInt(b, v.Int(), 10)
		}
		return strconv.AppendUint(b, v.Uint(), 10)
	}
	return b
}

// appendPart adds a part of a composite key with its length before it, so that no two keys share a text.
func appendPart(b []byte, v reflect.Value) []byte {
	part := appendKey(nil, v)
	b = strconv.AppendInt(b, int64(len(part)), 10)
	b = append(b, ':')
	return append(b, part...)
}

const (
	maxKeyText = 200
	hashedText = 1 + 2*sha256.Size
)

// bounded returns text, or a digest of it where it is long. A text that looks like a digest is hashed too, so that nobody
// can make one key pass for another.
func bounded(text string) string {
	if len(text) <= maxKeyText && (len(text) != hashedText || text[0] != '#') {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return "#" + hex.EncodeToString(sum[:])
}
