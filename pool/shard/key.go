package shard

import (
	"crypto/sha256"
	"fmt"
	"reflect"
)

// sumNamed hashes a key whose type has a name of its own.
func sumNamed[K Key](key K) [sha256.Size]byte {
	v := reflect.ValueOf(key)
	switch v.Kind() {
	case reflect.Int64:
		return sumInt(v.Int())
	case reflect.String:
		return sha256.Sum256([]byte(v.String()))
	case reflect.Array:
		var b [16]byte
		reflect.Copy(reflect.ValueOf(&b).Elem(), v)
		return sha256.Sum256(b[:])
	}
	panic(fmt.Sprintf("shard: a key of kind %v", v.Kind())) // no such Key
}
