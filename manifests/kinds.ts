import type { z } from 'zod';
import {
  backupPolicySchema,
  reviewBackupPolicy,
  WALKEEP_API,
  type BackupPolicyManifest,
} from './backup-policy.ts';
import { backupSchema, reviewBackup, type BackupManifest } from './backup.ts';
import { closestName, suggestName } from './closest-name.ts';
import { ACTED_ON, CLUSTER_SPEC_FIELDS, clusterSchema, CNPG_API, type ClusterManifest } from './cluster.ts';
import { METADATA_FIELDS, WALKEEP_ANNOTATIONS } from './metadata.ts';
import { reviewWrittenCluster } from './object-store-references.ts';
import {
  BARMAN_PLUGIN_API,
  objectStoreSchema,
  reviewObjectStoreResource,
  type ObjectStoreManifest,
} from './object-store-resource.ts';
import { hasErrors, show, type FieldPath, type Finding } from './problem.ts';
import {
  reviewScheduledBackup,
  scheduledBackupSchema,
  type ScheduledBackupManifest,
} from './scheduled-backup.ts';
import {
  reviewScheduledVerification,
  scheduledVerificationSchema,
  type ScheduledVerificationManifest,
} from './scheduled-verification.ts';
import { schemaFindings } from './schema-findings.ts';
import { secretSchema, type SecretManifest } from './secret.ts';
import { findUnknownFields, isRecord, type UnknownField } from './unknown-fields.ts';

/** An object of a kind walkeep knows. */
export type KnownObject =
  | { readonly kind: 'Cluster'; readonly manifest: ClusterManifest }
  | { readonly kind: 'Backup'; readonly manifest: BackupManifest }
  | { readonly kind: 'ScheduledBackup'; readonly manifest: ScheduledBackupManifest }
  | { readonly kind: 'ObjectStore'; readonly manifest: ObjectStoreManifest }
  | { readonly kind: 'BackupPolicy'; readonly manifest: BackupPolicyManifest }
  | { readonly kind: 'ScheduledVerification'; readonly manifest: ScheduledVerificationManifest }
  | { readonly kind: 'Secret'; readonly manifest: SecretManifest };

export interface Examined {
  /** Only when there is no error among the findings. */
  readonly object?: KnownObject;
  readonly findings: readonly Finding[];
}

interface KnownKind {
  readonly apiVersion: string;
  readonly kind: KnownObject['kind'];
  examine(value: Readonly<Record<string, unknown>>, now: Date): Examined;
}

function define<Manifest>(
  apiVersion: string,
  kind: KnownObject['kind'],
  schema: z.ZodType<Manifest>,
  review: (manifest: Manifest, now: Date) => Finding[],
  wrap: (manifest: Manifest) => KnownObject,
): KnownKind {
  const examine = (value: Readonly<Record<string, unknown>>, now: Date): Examined => {
    const { value: pruned, emptied } = withoutNulls(value);
    const findings = [
      ...findUnknownFields(schema, pruned).flatMap((field) => judgeUnknown(kind, field)),
      ...emptied.flatMap((path) => judgeEmpty(kind, path)),
      ...strayAnnotations(kind, pruned),
    ];
    const parsed = schema.safeParse(pruned);
    if (!parsed.success) {
      return { findings: [...findings, ...schemaFindings(parsed.error.issues, pruned, kind === 'Secret')] };
    }
    findings.push(...review(parsed.data, now));
    return hasErrors(findings) ? { findings } : { object: wrap(parsed.data), findings };
  };
  return { apiVersion, kind, examine };
}

const KINDS: readonly KnownKind[] = [
  define(CNPG_API, 'Cluster', clusterSchema, reviewWrittenCluster, (manifest) => ({
    kind: 'Cluster',
    manifest,
  })),
  define(CNPG_API, 'Backup', backupSchema, reviewBackup, (manifest) => ({ kind: 'Backup', manifest })),
  define(CNPG_API, 'ScheduledBackup', scheduledBackupSchema, reviewScheduledBackup, (manifest) => ({
    kind: 'ScheduledBackup',
    manifest,
  })),
  define(BARMAN_PLUGIN_API, 'ObjectStore', objectStoreSchema, reviewObjectStoreResource, (manifest) => ({
    kind: 'ObjectStore',
    manifest,
  })),
  define(WALKEEP_API, 'BackupPolicy', backupPolicySchema, reviewBackupPolicy, (manifest) => ({
    kind: 'BackupPolicy',
    manifest,
  })),
  define(
    WALKEEP_API,
    'ScheduledVerification',
    scheduledVerificationSchema,
    reviewScheduledVerification,
    (manifest) => ({ kind: 'ScheduledVerification', manifest }),
  ),
  define(
    'v1',
    'Secret',
    secretSchema,
    () => [],
    (manifest) => ({ kind: 'Secret', manifest }),
  ),
];

/** Kinds of CNPG that have nothing to do with backups: accepted, not acted on. */
const OTHER_CNPG_KINDS: readonly string[] = [
  'ClusterImageCatalog',
  'Database',
  'DatabaseRole',
  'FailoverQuorum',
  'ImageCatalog',
  'Pooler',
  'Publication',
  'Subscription',
];

/** What `apiVersion` and `kind` of a document mean to walkeep. */
export type Recognized =
  | { readonly known: KnownKind }
  | { readonly foreign: { readonly apiVersion: string; readonly kind: string } }
  | { readonly finding: Finding };

/** Finds the kind of a document; a misspelt kind or version of ours and CNPG's is refused, others are foreign. */
export function recognize(value: Readonly<Record<string, unknown>>): Recognized {
  const { apiVersion, kind } = value;
  if (typeof apiVersion !== 'string' || typeof kind !== 'string') return { finding: notAManifest(value) };
  const known = KINDS.find((candidate) => candidate.apiVersion === apiVersion && candidate.kind === kind);
  if (known) return { known };
  const refuse = (path: FieldPath, message: string, fix: string): Recognized => ({
    finding: { path, message, fix, severity: 'error' },
  });
  const ofVersion = KINDS.filter((candidate) => candidate.apiVersion === apiVersion).map(
    (other) => other.kind,
  );
  if (apiVersion === 'v1') {
    const misplaced = KINDS.find((candidate) => candidate.kind === kind);
    return misplaced
      ? refuse(
          ['apiVersion'],
          `apiVersion v1 has no kind ${kind}`,
          `write apiVersion: ${misplaced.apiVersion}`,
        )
      : { foreign: { apiVersion, kind } };
  }
  if (ofVersion.length > 0) {
    if (apiVersion === CNPG_API && OTHER_CNPG_KINDS.includes(kind)) return { foreign: { apiVersion, kind } };
    return refuse(['kind'], `${apiVersion} has no kind ${show(kind)}`, suggestName(kind, ofVersion));
  }
  const version = closestName(apiVersion, [...new Set(KINDS.map((candidate) => candidate.apiVersion))]);
  const sameGroup = KINDS.find((other) => other.apiVersion.startsWith(`${apiVersion.split('/')[0]}/`));
  const meant = sameGroup && sameGroup.apiVersion !== 'v1' ? sameGroup.apiVersion : version;
  if (meant !== undefined && meant !== 'v1') {
    return refuse(
      ['apiVersion'],
      `${show(apiVersion)} is no version walkeep knows`,
      `did you mean ${meant}?`,
    );
  }
  return { foreign: { apiVersion, kind } };
}

function notAManifest(value: Readonly<Record<string, unknown>>): Finding {
  const missing = ['apiVersion', 'kind'].filter((name) => typeof value[name] !== 'string');
  const looksLike = Array.isArray(value['groups'])
    ? 'it looks like alert rules for Prometheus; give them to Prometheus (rule_files), not to walkeep'
    : Array.isArray(value['Rules'])
      ? 'it looks like the lifecycle rules of a bucket; they are not applied here'
      : undefined;
  const closest = missing
    .map((name) => closestName(name, Object.keys(value)))
    .find((name) => name !== undefined && name !== 'kind' && name !== 'apiVersion');
  return {
    path: [],
    message: `is no manifest: ${missing.join(' and ')} ${missing.length === 1 ? 'is' : 'are'} missing${looksLike === undefined ? '' : `; ${looksLike}`}`,
    fix:
      closest === undefined
        ? looksLike === undefined
          ? `begin with apiVersion: ${CNPG_API} and kind: Cluster (or another kind)`
          : 'leave this file out'
        : `did you mean "${missing[0]}" where "${closest}" stands?`,
    severity: 'error',
  };
}

/** Fields below these are decided by the field's own schema; around them a Cluster may hold what CNPG adds. */
function judgeUnknown(kind: string, field: UnknownField): Finding[] {
  const { path, name } = field;
  const at = [...path, name];
  const error = (fix: string): Finding[] => [
    { path: at, message: 'there is no such field', fix, severity: 'error' },
  ];
  if (path.length === 0) {
    if (name === 'status') return [];
    return error(
      field.holders.includes('spec') || isClusterField(kind, name)
        ? `it belongs below spec: indent it`
        : suggestName(name, field.known),
    );
  }
  if (path.length === 1 && path[0] === 'metadata') {
    if (METADATA_FIELDS.includes(name)) return [];
    const message = 'there is no such field';
    const severity = kind === 'Cluster' ? ('warning' as const) : ('error' as const);
    return [
      { path: at, message, fix: suggestName(name, ['name', 'namespace', 'labels', 'annotations']), severity },
    ];
  }
  if (kind === 'Cluster' && path.length === 1 && path[0] === 'spec')
    return judgeClusterField(name, field, at);
  return error(adviseOnField(field));
}

function isClusterField(kind: string, name: string): boolean {
  return kind === 'Cluster' && CLUSTER_SPEC_FIELDS.includes(name);
}

function adviseOnField({ name, known, holders, belongsOutside }: UnknownField): string {
  const closest = closestName(name, known);
  if (closest !== undefined) return `did you mean "${closest}"?`;
  if (holders.length > 0) return `it belongs below ${holders.join(' or ')}: indent it`;
  if (belongsOutside) return 'it belongs one level further out: check the indentation';
  return suggestName(name, known);
}

/** CNPG has many fields walkeep leaves alone; one that is close to a field it acts on must not pass for them. */
function judgeClusterField(name: string, field: UnknownField, path: FieldPath): Finding[] {
  if (CLUSTER_SPEC_FIELDS.includes(name)) return [];
  const message = 'there is no such field';
  if (field.holders.length > 0) {
    return [
      { path, message, fix: `it belongs below spec.${field.holders[0]}: indent it`, severity: 'error' },
    ];
  }
  const closest = closestName(name, CLUSTER_SPEC_FIELDS);
  if (closest !== undefined && ACTED_ON.includes(closest)) {
    return [{ path, message, fix: `did you mean "${closest}"?`, severity: 'error' }];
  }
  const fix = closest === undefined ? 'remove it, or check its spelling' : `did you mean "${closest}"?`;
  return [{ path, message: 'CNPG has no such field; walkeep ignores it', fix, severity: 'warning' }];
}

/** Empty values are absent ones, as in Kubernetes; where walkeep acts on the field, that is said. */
function judgeEmpty(kind: string, path: FieldPath): Finding[] {
  const acted =
    kind === 'Cluster' ? path[0] === 'spec' && ACTED_ON.includes(String(path[1])) : path[0] === 'spec';
  if (!acted || kind === 'BackupPolicy' || kind === 'ScheduledVerification') return [];
  const message = 'is empty and taken as not given';
  return [{ path, message, fix: 'remove the line, or indent what belongs to it', severity: 'warning' }];
}

function withoutNulls(root: Readonly<Record<string, unknown>>) {
  const emptied: FieldPath[] = [];
  const prune = (value: unknown, path: FieldPath): unknown => {
    if (Array.isArray(value)) return value.map((item: unknown, index) => prune(item, [...path, index]));
    if (!isRecord(value)) return value;
    const kept = Object.entries(value).filter(([key, item]) => {
      if (item === null) emptied.push([...path, key]);
      return item !== null;
    });
    return Object.fromEntries(kept.map(([key, item]) => [key, prune(item, [...path, key])]));
  };
  const value = prune(root, []);
  return { value: isRecord(value) ? value : {}, emptied };
}

/** Annotations of walkeep that no kind, or another one, has: a hold that is misspelt holds nothing. */
function strayAnnotations(kind: string, value: Readonly<Record<string, unknown>>): Finding[] {
  const metadata = value['metadata'];
  const annotations = isRecord(metadata) ? metadata['annotations'] : undefined;
  if (!isRecord(annotations)) return [];
  const known = new Map<string, readonly string[]>(Object.entries(WALKEEP_ANNOTATIONS));
  return Object.keys(annotations).flatMap((name): Finding[] => {
    const path = ['metadata', 'annotations', name];
    const kinds = known.get(name);
    if (kinds?.includes(kind)) return [];
    if (kinds) {
      const message = `does nothing on a ${kind}`;
      return [{ path, message, fix: `it belongs on a ${kinds.join(' or ')}`, severity: 'warning' }];
    }
    const closest = closestName(name, [...known.keys()]);
    if (!name.startsWith('walkeep.io/') && closest === undefined) return [];
    const message = 'walkeep has no such annotation';
    return [{ path, message, fix: suggestName(name, [...known.keys()]), severity: 'error' }];
  });
}
