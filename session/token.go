package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// A token is what the client's cookie holds: the number of the key, 32 random bytes, and the routing tag, masked so that
// two cookies of one user have nothing in common. The store knows it by its digest.
const (
	randomLen = 32
	tagLen    = 16
	rawLen    = 1 + randomLen + tagLen
)

var (
	encoding = base64.RawURLEncoding.Strict() // or a changed last character would decode to the same bytes
	textLen  = encoding.EncodedLen(rawLen)
)

type token struct {
	raw [rawLen]byte
	tag string // as in Record.Tag
}

// id is the token's name in the store.
func (t token) id() string {
	sum := sha256.Sum256(t.raw[:])
	return encoding.EncodeToString(sum[:])
}

func (t token) text() string { return encoding.EncodeToString(t.raw[:]) }

// A tokenKey is one of the manager's secrets.
type tokenKey []byte

func (k tokenKey) number() byte { return k.sum("number", nil)[0] }

func (k tokenKey) sum(purpose string, data []byte) []byte {
	h := hmac.New(sha256.New, k)
	h.Write([]byte("fairlead session " + purpose + "\x00"))
	h.Write(data)
	return h.Sum(nil)
}

// userTag is the tag of all sessions of a user.
func (k tokenKey) userTag(user string) string {
	return encoding.EncodeToString(k.sum("user", []byte(user))[:tagLen])
}

// mint makes a new token for records with the given tag; "" gives it one of its own.
func (k tokenKey) mint(tag string) token {
	var t token
	t.raw[0] = k.number()
	rand.Read(t.raw[1 : 1+randomLen])
	var plain [tagLen]byte
	if tag == "" {
		rand.Read(plain[:])
		tag = encoding.EncodeToString(plain[:])
	} else {
		encoding.Decode(plain[:], []byte(tag))
	}
	t.tag = tag
	k.mask(&t.raw, plain)
	return t
}

func (k tokenKey) mask(raw *[rawLen]byte, plain [tagLen]byte) {
	m := k.sum("mask", raw[1:1+randomLen])
	for i := range plain {
		raw[1+randomLen+i] = plain[i] ^ m[i]
	}
}

// parseToken checks a cookie's value for its shape alone.
func parseToken(text string) (raw [rawLen]byte, ok bool) {
	if len(text) != textLen {
		return raw, false
	}
	n, err := encoding.Decode(raw[:], []byte(text))
	return raw, err == nil && n == rawLen
}

// open finds the tag in a token that was made with this key. It cannot tell whether it was: the store knows.
func (k tokenKey) open(raw [rawLen]byte) token {
	masked := raw
	var plain [tagLen]byte
	copy(plain[:], masked[1+randomLen:])
	k.mask(&masked, plain)
	return token{raw, encoding.EncodeToString(masked[1+randomLen:])}
}

// seal hides next from everyone who does not hold t: the way from an old id to its successor. A token seals once.
func (t token) seal(next token) []byte {
	return t.aead().Seal(nil, make([]byte, 12), next.raw[:], nil)
}

func (t token) unseal(sealed []byte) (raw [rawLen]byte, ok bool) {
	b, err := t.aead().Open(nil, make([]byte, 12), sealed, nil)
	return raw, err == nil && copy(raw[:], b) == rawLen
}

func (t token) aead() cipher.AEAD {
	h := sha256.New()
	h.Write([]byte("fairlead session successor\x00"))
	h.Write(t.raw[:])
	block, _ := aes.NewCipher(h.Sum(nil)) // 32 bytes are a valid key
	aead, _ := cipher.NewGCM(block)
	return aead
}
