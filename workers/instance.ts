import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import path from 'node:path';
import type { InstanceFacts, InstanceRole } from '../activities/cluster.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { desireFingerprint, type Desire } from '../manifests/desire.ts';
import { RESTORE_MARKER } from '../operations/restore-targets.ts';
import { connect, disconnect, type ConnectionSettings } from '../postgres/connection.ts';

/** What the monitor of an instance needs. */
export interface InstancePorts {
  readonly instance: string;
  readonly pgdata: string;
  readonly version: string;
  readonly postgres: () => ConnectionSettings;
  /** The manifest this worker holds. */
  readonly manifest: () => Promise<{ manifest: ClusterManifest; revision: number } | undefined>;
  /** What is declared besides. */
  readonly besides: () => Promise<Omit<Desire, 'cluster'>>;
  readonly keeperPace?: InstanceFacts['keeperPace'];
  readonly hasSearchAttributes: () => boolean;
}

const ASK_MS = 5_000;
/** Archiving looks every few seconds; the server is asked less often. */
const FRESH_MS = 30_000;

/** Knows what this worker's PostgreSQL is. */
export class Instance {
  readonly #ports: InstancePorts;
  #role: InstanceRole = 'unknown';
  #askedAt = 0;

  constructor(ports: InstancePorts) {
    this.#ports = ports;
  }

  /** Whether there is a data directory; a target of a recovery has none until its restore is through. */
  hasDataDirectory(): boolean {
    const { pgdata } = this.#ports;
    return existsSync(path.join(pgdata, 'PG_VERSION')) && !existsSync(path.join(pgdata, RESTORE_MARKER));
  }

  /** The role, asked for now. */
  async role(): Promise<InstanceRole> {
    this.#role = this.hasDataDirectory() ? await this.#ask() : 'absent';
    this.#askedAt = Date.now();
    return this.#role;
  }

  /** The role as it was within the last half minute. */
  async recentRole(): Promise<InstanceRole> {
    return Date.now() - this.#askedAt < FRESH_MS ? this.#role : this.role();
  }

  async facts(role?: InstanceRole): Promise<InstanceFacts> {
    const { instance, version, manifest, besides, hasSearchAttributes, keeperPace = {} } = this.#ports;
    const stored = await manifest();
    // What can't be read is not held: the keeper then stores it anew.
    const held = stored && (await besides().catch(() => undefined));
    const desire = stored && held && { cluster: stored.manifest, ...held };
    return {
      instance,
      role: role ?? (await this.role()),
      host: hostname(),
      version,
      searchAttributes: hasSearchAttributes(),
      keepsBesides: true,
      ...(stored && desire && { revision: stored.revision, fingerprint: desireFingerprint(desire) }),
      ...(Object.keys(keeperPace).length > 0 && { keeperPace }),
    };
  }

  async #ask(): Promise<InstanceRole> {
    const signal = AbortSignal.timeout(ASK_MS);
    try {
      const client = await connect(this.#ports.postgres(), { applicationName: 'walkeep', signal });
      try {
        const { rows } = await client.query<{ standby: boolean }>('select pg_is_in_recovery() as standby');
        return rows[0]?.standby ? 'standby' : 'primary';
      } finally {
        await disconnect(client);
      }
    } catch {
      // It may be starting or stopped; whoever needs it will hear why from the work itself.
      return 'unknown';
    }
  }
}
