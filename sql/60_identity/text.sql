-- The supplied texts of notices about logins: what came, what to do with it, and what to do
-- if it was somebody else. Who is not known to be the one in the member record, as in a mail
-- to an address that nobody has proven yet, is not told a name.

-- Texts about logins have one frame, so that a room that sends more of them writes what they say and no more.
create function loyalty_private.supply_text(
    kind text, language text, whom text, proof text, subject text, text_before text, text_after text, sms_body text
) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
as $function$
with frame (language, text_foot, html_head, html_foot) as (
    values ('ja',
$$
──────────────────────────────
{{ program.name }}
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。
$$,
$$<!DOCTYPE html>
<html lang="ja">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.7">
<div style="max-width:560px;margin:0 auto">
$$,
$$<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
このメールは送信専用のアドレスからお送りしています。ご返信いただいてもお答えできませんので、ご了承ください。</p>
</div>
</body>
</html>
$$),
    ('en',
$$
--------------------------------------------------
{{ program.name }}
This address only sends mail; replies to it are not read.
$$,
$$<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ program.name }}</title></head>
<body style="margin:0;padding:24px;color:#222;font-family:sans-serif;line-height:1.6">
<div style="max-width:560px;margin:0 auto">
$$,
$$<hr style="border:0;border-top:1px solid #ccc">
<p style="color:#666;font-size:12px">{{ program.name }}<br>
This address only sends mail; replies to it are not read.</p>
</div>
</body>
</html>
$$)
), greeting (language, whom, salutation) as (
    -- a line break after a block is left out of what it is filled in to
    values
('ja', 'somebody', $${{ program.name }}からのお知らせです。$$),
('en', 'somebody', $$Hello,$$),
('ja', 'member', $${% if member.name %}{{ member.name }} 様{% else %}{{ program.name }}からのお知らせです。{% endif %}
$$),
('en', 'member', $${% if member.name %}Dear {{ member.name }},{% else %}Hello,{% endif %}
$$),
('ja', 'invited', $${{ name }} 様$$),
('en', 'invited', $$Dear {{ name }},$$)
), proof (kind, text_body, html_body) as (
    -- what the mail is about stands on a line of its own
    values
('code',
$$
  {{ code }}

$$,
$$<p style="font-size:28px;letter-spacing:4px"><strong>{{ code }}</strong></p>
$$),
('link',
$$
{{ link }}

$$,
$$<p style="word-break:break-all"><a href="{{ link }}">{{ link }}</a></p>
$$),
('none', $$
$$, '')
)
insert into loyalty.notice_template (program_id, kind, language, subject, text_body, html_body, sms_body)
select null, supply_text.kind, supply_text.language, supply_text.subject,
       g.salutation || e'\n\n' || supply_text.text_before || p.text_body || supply_text.text_after || f.text_foot,
       f.html_head || '<p>' || g.salutation || e'</p>\n' || b.paragraphs || p.html_body || a.paragraphs || f.html_foot,
       supply_text.sms_body
  from frame f
  join greeting g on g.language = f.language and g.whom = supply_text.whom
  join proof p on p.kind = supply_text.proof
 -- a line of the text is a paragraph of the HTML
 cross join lateral (
        select string_agg('<p>' || l.line || e'</p>\n', '' order by l.place) as paragraphs
          from string_to_table(supply_text.text_before, e'\n') with ordinality l (line, place)
         where l.line <> '') b
 cross join lateral (
        select string_agg('<p>' || l.line || e'</p>\n', '' order by l.place) as paragraphs
          from string_to_table(supply_text.text_after, e'\n') with ordinality l (line, place)
         where l.line <> '') a
 where f.language = supply_text.language
$function$;
comment on function loyalty_private.supply_text is
    'Writes the supplied text of a notice about a login: to whom (somebody, of whom no name is known; member; invited), with which proof in it (code, link, none), the lines before and after that, and the short message.';

select loyalty_private.supply_text(v.kind, v.language, v.whom, v.proof, v.subject, v.text_before, v.text_after, v.sms_body)
  from (values
('verification_code', 'ja', 'somebody', 'code',
$$【{{ program.name }}】認証コードのお知らせ$$,
$$次の認証コードを、登録画面に入力してください。
$$,
$$発行から{{ minutes | duration }}以内にご入力ください。コードは誰にも教えないでください。当方からお尋ねすることもありません。

お心当たりのない場合は、このメールを破棄してください。登録は行われません。
$$,
$$【{{ program.name }}】認証コード: {{ code }} {{ minutes | duration }}以内にご入力ください。誰にも教えないでください。$$),
('verification_code', 'en', 'somebody', 'code',
$${{ program.name }}: your verification code$$,
$$Please enter this code where you are registering.
$$,
$$It is good for {{ minutes | duration }}. Do not give it to anybody; we never ask for it.

If you are not registering, please ignore this mail; nothing will be registered.
$$,
$${{ program.name }}: your verification code is {{ code }}. Good for {{ minutes | duration }}. Do not give it to anybody.$$),
('login_in_use', 'ja', 'somebody', 'code',
$$【{{ program.name }}】ご登録済みのログインIDについて$$,
$$このアドレスをログインIDとする登録のお申し込みがありましたが、すでにご登録がございます。
ご本人の場合は、次の認証コードを登録画面に入力し、これまでのパスワードでログインしてください。今回の会員情報を、お使いのログインIDに追加できます。
$$,
$$発行から{{ minutes | duration }}以内にご入力ください。コードは誰にも教えないでください。当方からお尋ねすることもありません。

お心当たりのない場合は、このメールを破棄してください。これまでのご登録は変わりません。
$$,
$$【{{ program.name }}】この番号は登録済みです。追加登録の認証コード: {{ code }} {{ minutes | duration }}以内にご入力ください。心当たりがなければ破棄してください。$$),
('login_in_use', 'en', 'somebody', 'code',
$${{ program.name }}: this login ID is registered already$$,
$$Somebody asked to register with this address as login ID, which has been registered before.
If it was you, please enter this code where you are registering, and log in with the password you have. That adds the membership to your login ID.
$$,
$$It is good for {{ minutes | duration }}. Do not give it to anybody; we never ask for it.

If it was not you, please ignore this mail; what you have registered stays as it is.
$$,
$${{ program.name }}: this number is registered already. Code to add a membership: {{ code }}. Good for {{ minutes | duration }}. If it was not you, ignore this.$$),
('password_reset', 'ja', 'member', 'link',
$$【{{ program.name }}】パスワード再設定のご案内$$,
$$パスワード再設定のお申し込みを承りました。
次のURLを開き、お申し込みの画面に表示された4桁の認証キーと、新しいパスワードを入力してください。
$$,
$$お申し込みから{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、このメールを破棄してください。パスワードは変わりません。
$$,
$$【{{ program.name }}】パスワード再設定({{ minutes | duration }}以内): {{ link }} 心当たりがなければ破棄してください。$$),
('password_reset', 'en', 'member', 'link',
$${{ program.name }}: reset your password$$,
$$You asked to reset your password.
Please open this link and enter the key of 4 digits that was shown on the screen, and a new password.
$$,
$$It is good once, within {{ minutes | duration }} of asking.

If you did not ask for it, please ignore this mail; your password stays as it is.
$$,
$${{ program.name }}: reset your password within {{ minutes | duration }}: {{ link }} If it was not you, ignore this.$$),
('unlock', 'ja', 'member', 'link',
$$【{{ program.name }}】ロック解除のご案内$$,
$$誤ったパスワードが続けて入力されたため、ログインを停止しています。
ご本人の場合は、次のURLを開いて停止を解除し、あらためてログインしてください。
$$,
$$お申し込みから{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずにこのメールを破棄してください。ログインは停止したままで、どなたも入れません。
$$,
$$【{{ program.name }}】ロック解除({{ minutes | duration }}以内): {{ link }} 心当たりがなければ破棄してください。$$),
('unlock', 'en', 'member', 'link',
$${{ program.name }}: unlock your login$$,
$$Your login was locked after too many wrong passwords.
If it was you, please open this link to unlock it, and log in again.
$$,
$$It is good once, within {{ minutes | duration }} of asking.

If it was not you, please do not open it and ignore this mail; your login stays locked, and nobody gets in.
$$,
$${{ program.name }}: unlock your login within {{ minutes | duration }}: {{ link }} If it was not you, ignore this.$$),
('login_change', 'ja', 'somebody', 'link',
$$【{{ program.name }}】ログインID変更のご確認$$,
$$このアドレスを新しいログインIDとするお申し込みを承りました。
次のURLを開くと、変更が完了します。
$$,
$$お申し込みから{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずにこのメールを破棄してください。ログインIDは変わりません。
$$,
$$【{{ program.name }}】この番号を新しいログインIDにする({{ minutes | duration }}以内): {{ link }} 心当たりがなければ開かないでください。$$),
('login_change', 'en', 'somebody', 'link',
$${{ program.name }}: confirm your new login ID$$,
$$You asked to log in with this address from now on.
Please open this link to confirm it.
$$,
$$It is good once, within {{ minutes | duration }} of asking.

If you did not ask for it, please do not open the link and ignore this mail; nothing changes.
$$,
$${{ program.name }}: log in with this number from now on, to be confirmed within {{ minutes | duration }}: {{ link }} If it was not you, do not open it.$$),
('login_approved', 'ja', 'member', 'link',
$$【{{ program.name }}】ログインIDのお申し込みを承認いたしました$$,
$$ログインIDのお申し込みを承認いたしました。
次のURLを開き、新しいパスワードを設定してください。このアドレスが新しいログインIDになります。
$$,
$$送信から{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずに、すぐにお問い合わせください。
$$,
$$【{{ program.name }}】ログインIDのお申し込みを承認しました。パスワード設定({{ minutes | duration }}以内): {{ link }} 心当たりがなければお問い合わせください。$$),
('login_approved', 'en', 'member', 'link',
$${{ program.name }}: your application was approved$$,
$$Your application for a login ID was approved.
Please open this link and set a new password. This address is your new login ID then.
$$,
$$It is good once, within {{ minutes | duration }} from now.

If you did not apply, please do not open it and contact us at once.
$$,
$${{ program.name }}: your application was approved. Set a password within {{ minutes | duration }}: {{ link }} If it was not you, contact us at once.$$),
('password_changed', 'ja', 'member', 'none',
$$【{{ program.name }}】パスワードが変更されました$$,
$${{ today | date }}({{ today | weekday }})に、パスワードが変更されました。ご自身で変更された場合、お手続きは必要ありません。
$$,
$$お心当たりのない場合は、どなたかがログインした恐れがあります。すぐにパスワードを再設定し、お問い合わせください。
$$,
$$【{{ program.name }}】パスワードが変更されました。心当たりがなければ、すぐに再設定し、お問い合わせください。$$),
('password_changed', 'en', 'member', 'none',
$${{ program.name }}: your password was changed$$,
$$Your password was changed on {{ today | date }}. If you did that, there is nothing more to do.
$$,
$$If it was not you, somebody else may have logged in. Please reset your password at once and contact us.
$$,
$${{ program.name }}: your password was changed. If it was not you, reset it at once and contact us.$$),
('login_changed', 'ja', 'member', 'none',
$$【{{ program.name }}】ログインIDが変更されました$$,
$${{ today | date }}({{ today | weekday }})に、ログインIDが変更されました。今後、このアドレスではログインできません。ご自身で変更された場合、お手続きは必要ありません。
$$,
$$お心当たりのない場合は、どなたかがログインした恐れがあります。すぐにお問い合わせください。
$$,
$$【{{ program.name }}】ログインIDが変更され、この番号ではログインできなくなりました。心当たりがなければ、すぐにお問い合わせください。$$),
('login_changed', 'en', 'member', 'none',
$${{ program.name }}: your login ID was changed$$,
$$Your login ID was changed on {{ today | date }}, and you can no longer log in with this address. If you did that, there is nothing more to do.
$$,
$$If it was not you, somebody else may have logged in. Please contact us at once.
$$,
$${{ program.name }}: your login ID was changed, and you can no longer log in with this number. If it was not you, contact us at once.$$)
) as v (kind, language, whom, proof, subject, text_before, text_after, sms_body);
