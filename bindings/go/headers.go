package mesh

import (
	"encoding/binary"
	"net/http"
)

// A header list as libmesh takes and gives it: how many, then per header the offsets and lengths of name
// and value, all uint32 in native order, then the text.

const packedEntry = 16 // bytes: four uint32

type field struct{ name, value string }

// packFields appends the block for fields to dst; offsets count from its start.
func packFields(dst []byte, fields []field) []byte {
	if len(fields) == 0 {
		return dst
	}
	order := binary.NativeEndian
	dst = order.AppendUint32(dst, uint32(len(fields)))
	at := 4 + packedEntry*len(fields)
	for _, f := range fields {
		for _, text := range [2]string{f.name, f.value} {
			dst = order.AppendUint32(dst, uint32(at))
			dst = order.AppendUint32(dst, uint32(len(text)))
			at += len(text)
		}
	}
	for _, f := range fields {
		dst = append(append(dst, f.name...), f.value...)
	}
	return dst
}

// fieldsOf lists a header without the names that skip has.
func fieldsOf(header http.Header, skip map[string]bool) []field {
	fields := make([]field, 0, len(header)+1)
	for name, values := range header {
		if skip[name] {
			continue
		}
		for _, value := range values {
			fields = append(fields, field{name, value})
		}
	}
	return fields
}

// unpack is the header in a block that libmesh made; names get Go's spelling.
func unpack(block []byte) http.Header {
	header := http.Header{}
	if len(block) < 4 {
		return header
	}
	text := string(block) // one copy; every name and value is a part of it
	count := int(binary.NativeEndian.Uint32(block))
	for i := range count {
		entry := block[4+packedEntry*i:]
		part := func(at int) string {
			offset, length := binary.NativeEndian.Uint32(entry[at:]), binary.NativeEndian.Uint32(entry[at+4:])
			return text[offset : offset+length]
		}
		name := http.CanonicalHeaderKey(part(0))
		header[name] = append(header[name], part(8))
	}
	return header
}
