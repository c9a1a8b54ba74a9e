{{/* The names of things: one release named nextclick is not called nextclick-nextclick. */}}
{{- define "nextclick.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* By what a component's pods are selected. Arguments: root, component. */}}
{{- define "nextclick.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "nextclick.labels" -}}
{{ include "nextclick.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "nextclick.metadata" -}}
name: {{ include "nextclick.fullname" .root }}-{{ .name | default .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "nextclick.labels" . | nindent 2 }}
{{- end }}

{{- define "nextclick.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{/* Numbers of values.yaml are floats to Helm, which writes 4194304 as 4.194304e+06: no number of bytes to anybody. */}}
{{- define "nextclick.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{/* What every container may do. */}}
{{- define "nextclick.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What every pod says, before its containers. Arguments: root, component, values (of the component), user. */}}
{{- define "nextclick.pod" -}}
serviceAccountName: {{ include "nextclick.fullname" .root }}-{{ .component }}
automountServiceAccountToken: false
# Kubernetes would set NEXTCLICK_PORT and others for services of such a name, and the service refuses to start with them.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a pod runs. Without an object store all that read the artifacts share a volume of one node. Arguments as above. */}}
{{- define "nextclick.affinity" -}}
{{- if and (not .root.Values.artifacts.url) (ne .component "service") }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "nextclick.selector" (dict "root" .root "component" "service") | nindent 12 }}
{{- else if .values.pod.affinity }}
affinity:
  {{- toYaml .values.pod.affinity | nindent 2 }}
{{- end }}
{{- end }}

{{- define "nextclick.podMetadata" -}}
labels:
  {{- include "nextclick.selector" . | nindent 2 }}
  {{- with .values.pod.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or .checksums .values.pod.annotations }}
annotations:
  {{- with .checksums }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .values.pod.annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The Secret that holds what was given, and which entries it has, as a list between commas. */}}
{{- define "nextclick.secretName" -}}
{{- .Values.secrets.existingSecret | default (printf "%s-secrets" (include "nextclick.fullname" .)) }}
{{- end }}

{{- define "nextclick.secretEntries" -}}
{{- if .Values.secrets.existingSecret }}{{ join "," .Values.secrets.entries }}
{{- else }}
{{- $found := list }}
{{- range $entry, $value := .Values.secrets.create }}{{ if $value }}{{ $found = append $found $entry }}{{ end }}{{ end }}
{{- join "," $found }}
{{- end }}
{{- end }}

{{- define "nextclick.redisSecretName" -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "nextclick.fullname" .)) }}
{{- end }}

{{/* How service and trainer find Redis and the artifacts: a part of their env. */}}
{{- define "nextclick.env" -}}
- name: HOME # where libraries keep their caches
  value: /tmp
- name: NEXTCLICK_ARTIFACTS_DIR
  value: /app/artifacts
{{- with .Values.artifacts.url }}
- name: NEXTCLICK_ARTIFACTS_URL
  value: {{ . | quote }}
{{- end }}
{{- range $name, $value := .Values.artifacts.env }}
- name: {{ $name }}
  value: {{ include "nextclick.text" $value | quote }}
{{- end }}
{{- if .Values.catalogue }}
- name: NEXTCLICK_CATALOGUE_FILE
  value: /etc/nextclick/config/catalogue.toml
{{- end }}
{{- if .Values.redis.enabled }}
- name: REDIS_HOST
  value: {{ include "nextclick.fullname" . }}-redis
- name: REDIS_PASSWORD_FILE
  value: /etc/nextclick/redis/redis-password
{{- else }}
- name: NEXTCLICK_REDIS_URL_FILE
  value: /etc/nextclick/secrets/redis-url
{{- end }}
{{- end }}

{{- define "nextclick.envFrom" -}}
- configMapRef:
    name: {{ include "nextclick.fullname" . }}-settings
{{- with .Values.artifacts.credentialsSecret }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end }}

{{- define "nextclick.mounts" -}}
- name: artifacts
  mountPath: /app/artifacts
- name: tmp
  mountPath: /tmp
- name: config
  mountPath: /etc/nextclick/config
  readOnly: true
{{- if .Values.redis.enabled }}
- name: redis-password
  mountPath: /etc/nextclick/redis
  readOnly: true
{{- end }}
{{- end }}

{{/* Volumes beside artifacts. Arguments: root, entries (of the Secret that this pod may see). */}}
{{- define "nextclick.volumes" -}}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 256Mi
- name: config
  configMap:
    name: {{ include "nextclick.fullname" .root }}-config
{{- if .root.Values.redis.enabled }}
- name: redis-password
  secret:
    secretName: {{ include "nextclick.redisSecretName" .root }}
    defaultMode: 0440
    items:
      - key: redis-password
        path: redis-password
{{- end }}
{{- with .entries }}
- name: secrets
  secret:
    secretName: {{ include "nextclick.secretName" $.root }}
    defaultMode: 0440
    items:
      {{- range . }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- end }}
{{- end }}

{{/* A new pod when what it reads at its start has changed. */}}
{{- define "nextclick.checksums" -}}
checksum/config: {{ include (print .Template.BasePath "/config.yaml") . | sha256sum }}
checksum/secrets: {{ toJson .Values.secrets | sha256sum }}
{{- end }}

{{/* What a schema cannot say. */}}
{{- define "nextclick.validate" -}}
{{- $entries := splitList "," (include "nextclick.secretEntries" .) }}
{{- $opened := or .Values.ingress.enabled .Values.httpRoute.enabled }}
{{- if and (not .Values.redis.enabled) (not (has "redis-url" $entries)) }}
{{- fail "no Redis: name its URL in secrets.create.redis-url, or an existing Secret with the entry redis-url; to try it, redis.enabled=true runs a small one here" }}
{{- end }}
{{- if and .Values.redis.enabled (has "redis-url" $entries) }}
{{- fail "two Redis: redis.enabled runs one here, and the entry redis-url names another; the service would use one of them alone" }}
{{- end }}
{{- if and (not .Values.artifacts.url) (or .Values.service.autoscaling.enabled (gt (int .Values.service.replicas) 1)) }}
{{- fail "several replicas need an object store, artifacts.url: without one the artifacts lie in a volume of one node" }}
{{- end }}
{{- if and $opened (not (or (has "server-api-key" $entries) (has "keys.toml" $entries))) }}
{{- fail "an ingress or httpRoute opens the service, and without a server's key whoever reaches it may read and erase sessions and change items: set server-api-key or keys.toml in secrets" }}
{{- end }}
{{- if and .Values.console.enabled (not (or (has "admin-api-key" $entries) (has "keys.toml" $entries))) }}
{{- fail "the console logs in with an admin's key, and the service has none: set admin-api-key or keys.toml in secrets" }}
{{- end }}
{{- if and .Values.service.autoscaling.enabled (gt (int .Values.service.autoscaling.minReplicas) (int .Values.service.autoscaling.maxReplicas)) }}
{{- fail "service.autoscaling: minReplicas is above maxReplicas" }}
{{- end }}
{{- end }}

{{/* One pod of the trainer. Arguments: root, arguments (of nextclick.pod), entries, args, resources, keeps (its scratch). */}}
{{- define "nextclick.trainerPod" -}}
metadata:
  {{- include "nextclick.podMetadata" .arguments | nindent 2 }}
spec:
  {{- include "nextclick.pod" .arguments | nindent 2 }}
  {{- include "nextclick.affinity" .arguments | nindent 2 }}
  restartPolicy: Never
  terminationGracePeriodSeconds: 40 # a run gets 30 s to end
  containers:
    - name: trainer
      image: {{ include "nextclick.image" .root.Values.image.trainer }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{ toJson .args }}
      securityContext:
        {{- include "nextclick.confined" . | nindent 8 }}
      envFrom:
        {{- include "nextclick.envFrom" .root | nindent 8 }}
      env:
        {{- include "nextclick.env" .root | nindent 8 }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      volumeMounts:
        {{- include "nextclick.mounts" .root | nindent 8 }}
        {{- if .entries }}
        - name: secrets
          mountPath: /etc/nextclick/secrets
          readOnly: true
        {{- end }}
  volumes:
    - name: artifacts
      {{- if not .root.Values.artifacts.url }}
      persistentVolumeClaim:
        claimName: {{ include "nextclick.fullname" .root }}-artifacts
      {{- else if and .keeps .root.Values.trainer.scratch.keep }}
      persistentVolumeClaim:
        claimName: {{ include "nextclick.fullname" .root }}-trainer
      {{- else }}
      emptyDir:
        sizeLimit: {{ .root.Values.trainer.scratch.size }}
      {{- end }}
    {{- include "nextclick.volumes" (dict "root" .root "entries" .entries) | nindent 4 }}
{{- end }}

{{- define "nextclick.trainerFailures" -}}
backoffLimit: 3
podFailurePolicy:
  rules:
    - action: Ignore # a node that is drained is no failure: again, and a kept scratch goes on where it was
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    - action: FailJob # 1: a check stopped it; 2: wrong input. Neither is another the second time
      onExitCodes:
        containerName: trainer
        operator: In
        values: [1, 2]
{{- end }}

{{/* Where service and trainer may go. */}}
{{- define "nextclick.egress" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- if .Values.redis.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "nextclick.selector" (dict "root" . "component" "redis") | nindent 10 }}
  ports:
    - port: 6379
{{- end }}
{{- with .Values.networkPolicy.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}
