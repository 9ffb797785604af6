import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { backupSchema } from '../../manifests/backup.ts';
import { clusterSchema } from '../../manifests/cluster.ts';
import { WALKEEP_ANNOTATIONS } from '../../manifests/metadata.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';

const page = readFileSync(new URL('../../docs/manifests.md', import.meta.url), 'utf8');
const named = new Set([...page.matchAll(/`([^`\n]+)`/g)].map((match) => match[1]?.split('.').at(-1)));

/** Fields whose meaning is said with the field they belong to. */
const COMMON = ['apiVersion', 'kind', 'metadata', 'spec', 'key', 'apiGroup'];

/** The names of all fields in a JSON schema. */
function fieldsIn(schema: unknown): string[] {
  if (typeof schema !== 'object' || schema === null) return [];
  return Object.entries(schema).flatMap(([keyword, inner]) =>
    keyword === 'properties' && typeof inner === 'object' && inner !== null
      ? Object.entries(inner).flatMap(([name, field]) => [name, ...fieldsIn(field)])
      : fieldsIn(inner),
  );
}

describe('docs/manifests.md', () => {
  test.for([
    ['Cluster', clusterSchema.shape.spec],
    ['Backup', backupSchema.shape.spec],
    ['ScheduledBackup', scheduledBackupSchema.shape.spec],
  ] as const)('says of every field of a %s what walkeep does with it', ([, schema]) => {
    const fields = fieldsIn(z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }));
    expect(fields.length).toBeGreaterThan(5);
    expect([...new Set(fields)].filter((name) => !named.has(name) && !COMMON.includes(name))).toEqual([]);
  });

  test.for(Object.keys(WALKEEP_ANNOTATIONS))('explains the annotation %s', (annotation) => {
    expect(page).toContain(`\`${annotation}\``);
  });
});
