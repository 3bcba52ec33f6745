// Package ratelimit decides who may do how much: in one process, or over a whole fleet with package redislimit.
package ratelimit
