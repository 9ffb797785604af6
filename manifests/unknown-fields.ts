import { z } from 'zod';
import type { FieldPath } from './problem.ts';

/** A field that the schema does not have. */
export interface UnknownField {
  readonly path: FieldPath;
  readonly name: string;
  /** Fields the schema has at this place. */
  readonly known: readonly string[];
  /** Fields of this place that hold one of this name themselves: it was indented too little. */
  readonly holders: readonly string[];
  /** Whether the place around has such a field: it was indented too much. */
  readonly belongsOutside: boolean;
}

/** Walks `value` beside `schema`. Zod's own strictness stops at the first rule; this names everything at once. */
export function findUnknownFields(schema: z.core.$ZodType, value: unknown): UnknownField[] {
  return walk(schema, value, [], []);
}

function walk(
  schema: z.core.$ZodType,
  value: unknown,
  path: FieldPath,
  outside: readonly string[],
): UnknownField[] {
  const inner = unwrap(schema, value);
  if (Array.isArray(value)) {
    if (!(inner instanceof z.ZodArray)) return [];
    return value.flatMap((item: unknown, index) => walk(inner.element, item, [...path, index], []));
  }
  if (!isRecord(value)) return [];
  if (inner instanceof z.ZodRecord) {
    return Object.entries(value).flatMap(([key, item]) => walk(inner.valueType, item, [...path, key], []));
  }
  if (!(inner instanceof z.ZodObject)) return [];
  return walkObject(inner, value, path, outside);
}

function walkObject(
  schema: z.ZodObject,
  value: Readonly<Record<string, unknown>>,
  path: FieldPath,
  outside: readonly string[],
): UnknownField[] {
  const shape = new Map(Object.entries(schema.shape));
  const known = [...shape.keys()];
  // A loose object takes anything.
  const open = schema.def.catchall instanceof z.ZodUnknown;
  return Object.entries(value).flatMap(([name, item]) => {
    const field = shape.get(name);
    if (field) return walk(field, item, [...path, name], known);
    if (open) return [];
    const holders = known.filter((other) => fieldsOf(shape.get(other)).includes(name));
    return [{ path, name, known, holders, belongsOutside: outside.includes(name) }];
  });
}

function fieldsOf(schema: z.core.$ZodType | undefined): string[] {
  const inner = schema && unwrap(schema, {});
  return inner instanceof z.ZodObject ? Object.keys(inner.shape) : [];
}

/** The schema below defaults, options, transforms and unions. */
function unwrap(schema: z.core.$ZodType, value: unknown): z.core.$ZodType {
  if (
    schema instanceof z.ZodOptional ||
    schema instanceof z.ZodNullable ||
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault
  ) {
    return unwrap(schema.unwrap(), value);
  }
  if (schema instanceof z.ZodPipe) {
    const begin: z.core.$ZodType = schema.in;
    return begin instanceof z.ZodTransform ? unwrap(schema.out, value) : unwrap(begin, value);
  }
  if (schema instanceof z.ZodUnion && isRecord(value)) {
    const object = schema.options.find((option) => unwrap(option, value) instanceof z.ZodObject);
    return object ? unwrap(object, value) : schema;
  }
  return schema;
}

/** Whether `value` is a map of a document. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
