import { createHash } from 'node:crypto';
import { formatLsn, type Lsn } from '../core/lsn.ts';

/** A file as it was stored: what a restore has to bring back. */
export interface ManifestFile {
  /** Relative to the data directory; in a tablespace `pg_tblspc/<oid>/PG_…`. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly mtimeMs: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

export interface ManifestFrame {
  readonly systemId: string;
  readonly majorVersion: number;
  readonly timeline: number;
  readonly beginLsn: Lsn;
  readonly endLsn: Lsn;
}

/**
 * PostgreSQL's own `backup_manifest`, piece by piece, so that `pg_verifybackup` can check what was restored.
 *
 * @see https://www.postgresql.org/docs/current/backup-manifest-format.html
 */
export async function* formatManifest(
  files: AsyncIterable<ManifestFile>,
  frame: ManifestFrame,
): AsyncGenerator<string, void, void> {
  const hash = createHash('sha256');
  const counted = (text: string) => {
    hash.update(text);
    return text;
  };
  // Version 2 added the system identifier, with PostgreSQL 17.
  const version = frame.majorVersion >= 17 ? 2 : 1;
  const system = version === 2 ? `"System-Identifier": ${frame.systemId},\n` : '';
  yield counted(`{ "PostgreSQL-Backup-Manifest-Version": ${version},\n${system}"Files": [`);
  let separator = '\n';
  for await (const file of files) {
    yield counted(separator + formatFile(file));
    separator = ',\n';
  }
  yield counted(
    `\n],\n"WAL-Ranges": [\n{ "Timeline": ${frame.timeline}, "Start-LSN": "${formatLsn(frame.beginLsn)}", ` +
      `"End-LSN": "${formatLsn(frame.endLsn)}" }\n],\n`,
  );
  yield `"Manifest-Checksum": "${hash.digest('hex')}"}\n`;
}

function formatFile({ path, sizeBytes, mtimeMs, sha256 }: ManifestFile): string {
  const modified = new Date(mtimeMs)
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, ' GMT');
  return (
    `{ "Path": ${JSON.stringify(path)}, "Size": ${sizeBytes}, "Last-Modified": "${modified}", ` +
    `"Checksum-Algorithm": "SHA256", "Checksum": "${sha256}" }`
  );
}
